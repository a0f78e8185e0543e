"""A server of one model: its own API, OpenAI's and Ollama's, a Label Studio backend, and a page (extra ``[serve]``)."""
