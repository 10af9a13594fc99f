//! OCI images: references, registries, archives, the store, and root file systems made of their layers.
