"""Config in, events out: a language-model trainer that knows seconds, tokens and gradients."""
