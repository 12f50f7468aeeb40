"""What several test modules share: fakes of the real protocols, small verbs, requirements."""
