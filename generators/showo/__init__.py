"""Show-o: a language model that draws by filling in masked image tokens (Xie et al., 2024, arXiv 2408.12528)."""
