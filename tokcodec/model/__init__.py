"""The network: layers, quantizer, tokenizer, and loading its weights from a checkpoint."""
