"""The model behind OpenAI's chat interface, over HTTP."""
