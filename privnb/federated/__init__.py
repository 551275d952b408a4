"""Computing over several sites of which only the combination may be seen."""
