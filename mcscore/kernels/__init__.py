"""Operations with several implementations: one file per operation and backend, ``backends`` says which one runs."""
