"""Takes a trained lane out of Tunebench: an adapter, a merged model, GGUF files, and a certificate of what they keep."""
