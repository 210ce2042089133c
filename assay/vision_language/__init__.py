"""Asking a vision-language model about images: what the services that do so share.

A model in this process, or one behind an OpenAI-compatible server, answers yes or no (`judge.Judge`, read from its
logits) or writes a text (`writer.Writer`). It knows nothing of what is asked, nor of what becomes of the answers.
"""
