"""Reference: whether the words of people and models pick out the right thing, for the right listener, fairly."""
