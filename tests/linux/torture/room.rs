//! A directory for images on a file system that supports direct I/O.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::images::{run, sparse};
use crate::place;

const SIZE: u64 = 512 << 20;

/// Dropping it removes it and everything in it.
pub struct Room {
    directory: TempDir,
    mounted: bool,
}

impl Room {
    /// In the nested machine it is an ext4 file system on a loop device, because the root there is in memory and has no
    /// direct I/O.
    pub fn make() -> Result<Self, String> {
        if !place::is_inside() {
            let directory =
                tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|why| why.to_string())?;
            return Ok(Self {
                directory,
                mounted: false,
            });
        }
        let directory = tempfile::tempdir().map_err(|why| why.to_string())?;
        let mut room = Self {
            directory,
            mounted: false,
        };
        let root = room.root().display().to_string();
        let file = sparse(&room.directory, "file-system", SIZE).display().to_string();
        run("modprobe", &["loop"])?;
        run("mkdir", &[&root])?;
        run("/sbin/mke2fs", &["-q", "-F", "-t", "ext4", &file])?;
        run("mount", &["-t", "ext4", "-o", "loop", &file, &root])?;
        room.mounted = true;
        Ok(room)
    }

    pub fn root(&self) -> PathBuf {
        match place::is_inside() {
            true => self.directory.path().join("root"),
            false => self.directory.path().into(),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.mounted
            && let Err(why) = run("umount", &[&self.root().display().to_string()])
        {
            eprintln!("{why}");
        }
    }
}
