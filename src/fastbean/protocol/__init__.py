"""The protocol: the tokenizer, the commands and the replies. It knows lines, and no job, tube or client."""
