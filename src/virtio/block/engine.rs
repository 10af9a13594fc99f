//! Chooses the engine that carries out a disk's requests, and says why.

use std::fmt;

use crate::config::Engine;

/// The engine of a disk, which is never [`Engine::Auto`], and the reason for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    pub engine: Engine,
    reason: &'static str,
}

/// Chooses the engine of a disk. `asked` is what the person asked for, and `is_raw` whether the disk is a raw image.
pub fn choose(asked: Engine, is_raw: bool) -> Choice {
    let (engine, reason) = match asked {
        Engine::Auto | Engine::Uring if !is_raw => (
            Engine::Sync,
            "a qcow2 or ephemeral disk is read and written call by call",
        ),
        Engine::Auto => (Engine::Uring, "a raw image takes many requests at once"),
        chosen => (chosen, "as asked"),
    };
    Choice { engine, reason }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = match self.engine {
            Engine::Uring => "uring",
            Engine::Sync | Engine::Auto => "sync",
        };
        write!(f, "{name} ({})", self.reason)
    }
}
