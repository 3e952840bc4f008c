"""What is versioned, as frozen values: names, specs, manifests, locks. No I/O."""
