"""What several tests share: things that cannot be here, such as a card, and programs that tests start."""
