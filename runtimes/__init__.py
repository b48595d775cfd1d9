"""One file or folder is one back end. A runtime reads bundles and knows no strategy."""
