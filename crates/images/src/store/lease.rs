//! What somebody is about to use, though no name leads to it yet.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;

use super::{PARTIAL, Store, fetch, lock};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::points::reached;

const PREFIX: &str = "lease-";

/// Blobs and layers that nobody removes while this is there, whether they are there yet or not. It is a file with their digests, and a
/// lock on it that ends with the process.
pub struct Lease {
    store: Store,
    file: File,
    path: PathBuf,
    digests: HashSet<Digest>,
}

impl Store {
    pub fn lease(&self) -> Result<Lease> {
        let path = self.partial(&format!("{PREFIX}{}", fetch::unique()));
        Ok(Lease {
            store: self.clone(),
            file: lock::exclusive(&path)?,
            path,
            digests: HashSet::new(),
        })
    }

    /// Everything that is leased. The caller holds the store's lock. What was left by processes that have ended is removed.
    pub(super) fn leased(&self) -> Result<HashSet<Digest>> {
        let mut leased = HashSet::new();
        let directory = self.directory.join(PARTIAL);
        for entry in fs::read_dir(&directory)
            .map_err(Error::file("list", &directory))?
            .flatten()
        {
            if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
                continue;
            }
            let path = entry.path();
            if let Some(_lock) = lock::try_exclusive(&path)? {
                let _ = fs::remove_file(&path);
                continue;
            }
            let mut text = String::new();
            // Its holder may have removed it just now.
            if let Ok(mut file) = File::open(&path) {
                file.read_to_string(&mut text)
                    .map_err(Error::file("read", &path))?;
            }
            leased.extend(text.lines().filter_map(|line| line.parse().ok()));
        }
        Ok(leased)
    }
}

impl Lease {
    /// Also these. Whoever removes something has finished when this returns, so what is there then stays.
    pub fn add<'a>(&mut self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<()> {
        let new: Vec<_> = digests
            .into_iter()
            .filter(|digest| self.digests.insert((*digest).clone()))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let text: String = new.into_iter().map(|digest| format!("{digest}\n")).collect();
        let _lock = self.store.lock()?;
        self.file
            .write_all(text.as_bytes())
            .map_err(Error::file("write", &self.path))?;
        reached("leased");
        Ok(())
    }

    /// Ends the lease, and removes of what was leased what nothing leads to.
    pub fn give_up(mut self) -> Result<()> {
        let (store, digests) = (self.store.clone(), std::mem::take(&mut self.digests));
        drop(self);
        store.discard(digests).map(drop)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
