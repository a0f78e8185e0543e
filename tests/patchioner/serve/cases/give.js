([kind, photos]) => {
    // Photos that are dropped on the page, or pasted.
    const files = new DataTransfer();
    for (const [name, bytes] of Object.entries(photos))
        files.items.add(new File([new Uint8Array(bytes)], name, { type: "image/jpeg" }));
    const drop = new DragEvent("drop", { dataTransfer: files, cancelable: true });
    dispatchEvent(kind === "drop" ? drop : new ClipboardEvent("paste", { clipboardData: files }));
}
