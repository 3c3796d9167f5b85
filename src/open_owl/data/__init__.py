"""From rows of any known format to conversations, to ids, labels and pixels, to a stream of batches."""
