"""Operations on patches: the network, and filters."""
