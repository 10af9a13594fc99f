//! Finds a name in a directory.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::NodeId;

/// The nodes by their directories and names. Names are hostile, so the hash is seeded anew each time; nothing depends on the order.
#[derive(Default)]
pub struct Names {
    table: HashTable<(u32, NodeId)>,
    hasher: RandomState,
}

impl Names {
    pub fn find(&self, parent: NodeId, name: &[u8], is_it: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let hash = self.hash(parent, name);
        let found = self
            .table
            .find(spread(hash), |(known, node)| *known == hash && is_it(*node));
        found.map(|(_, node)| *node)
    }

    /// The name must not be there.
    pub fn insert(&mut self, parent: NodeId, name: &[u8], node: NodeId) {
        let hash = self.hash(parent, name);
        self.table
            .insert_unique(spread(hash), (hash, node), |(hash, _)| spread(*hash));
    }

    pub fn remove(&mut self, parent: NodeId, name: &[u8], node: NodeId) {
        let hash = self.hash(parent, name);
        if let Ok(found) = self.table.find_entry(spread(hash), |(_, other)| *other == node) {
            found.remove();
        }
    }

    /// Half of the hash is kept beside each node, so that growing reads no names.
    fn hash(&self, parent: NodeId, name: &[u8]) -> u32 {
        self.hasher.hash_one((parent.0, name)) as u32
    }
}

/// The table looks at the highest bits, too.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}
