"""The thin coordinator: it collects what nodes report and shows it during a run; it commands nothing."""
