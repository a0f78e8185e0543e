"""A server of one model: its own API, OpenAI's and Ollama's, a Label Studio backend, and a page.

FastAPI (extra ``[serve]``) is imported by the modules in here alone; this one and `settings` do without.
"""
