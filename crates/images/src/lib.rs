//! OCI images: references, registries, archives, the store, and root file systems made of their layers.

pub mod credentials;
mod decompress;
mod digest;
pub mod erofs;
#[cfg(test)]
#[path = "erofs/reader_test.rs"]
mod erofs_reader;
mod error;
pub mod image;
pub mod layer;
#[cfg(test)]
mod layers_test;
pub mod load;
#[cfg(test)]
mod made;
mod platform;
mod points;
mod reference;
pub mod registry;
pub mod save;
pub mod store;
pub mod tree;

pub use digest::{Algorithm, CheckedReader, CheckedWriter, Digest, Expected, Hasher};
pub use error::{Error, Result};
pub use platform::Platform;
pub use reference::{DEFAULT_HOST, Reference};
