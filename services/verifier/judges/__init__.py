"""What answers the questions: a model in this process, or one behind an OpenAI-compatible server."""
