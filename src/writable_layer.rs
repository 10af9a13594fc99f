//! The disk that the guest of an OCI image writes to: an ext4 with the directories `/upper` and `/work` for overlayfs. A new
//! one is zeros but for some blocks, which guest-images/writable-layer makes and the program carries.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// How many bytes the guest sees.
pub const SIZE: u64 = 64 << 30;

// LENGTH of the disk that was made, and its RUNS of blocks that are not zero: where each starts on the disk, and its bytes in
// BLOCKS. The build script has checked that each lies within both.
#[cfg(built_in_guest)]
include!(concat!(env!("OUT_DIR"), "/writable_layer.rs"));
#[cfg(built_in_guest)]
static BLOCKS: &[u8] = include_bytes!(env!("CORACLE_WRITABLE_LAYER"));

#[cfg(not(built_in_guest))]
const LENGTH: u64 = SIZE;
#[cfg(not(built_in_guest))]
const RUNS: &[(u64, Range<usize>)] = &[];
#[cfg(not(built_in_guest))]
static BLOCKS: &[u8] = &[];

const _: () = assert!(LENGTH == SIZE);

/// Makes a new and empty file such a disk. It is sparse: 96 KiB of it are stored.
///
/// # Errors
/// When the program was built without a guest inside, and when the file system has no room or no files of this size.
pub fn write(file: &File) -> io::Result<()> {
    if RUNS.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this coracle was built without the built-in guest and its writable layer: make guest, and build it again",
        ));
    }
    file.set_len(SIZE)?;
    for (start, bytes) in RUNS {
        file.write_all_at(&BLOCKS[bytes.clone()], *start)?;
    }
    Ok(())
}

#[cfg(all(test, not(built_in_guest)))]
mod tests {
    use super::*;

    #[test]
    fn without_a_guest_inside_nothing_is_written() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(write(&file).unwrap_err().kind(), io::ErrorKind::Unsupported);
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}

#[cfg(all(test, built_in_guest))]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    use super::*;

    fn written() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        write(file.as_file()).unwrap();
        file
    }

    /// What a program of e2fsprogs says of a new writable layer. Panics unless it succeeds.
    fn said_by(program: &str, options: &[&str]) -> String {
        let disk = written();
        let output = Command::new(program)
            .args(options)
            .arg(disk.path())
            .output()
            .unwrap_or_else(|error| panic!("{program}, of Debian's e2fsprogs: {error}"));
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        text
    }

    #[test]
    fn a_new_writable_layer_is_an_ext4_without_faults() {
        said_by("/sbin/e2fsck", &["-f", "-n"]);
    }

    #[test]
    fn it_is_as_large_as_is_said_and_takes_up_little() {
        let file = written();
        let metadata = file.as_file().metadata().unwrap();
        assert_eq!(metadata.len(), SIZE);
        assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
    }

    #[test]
    fn each_is_like_the_other() {
        let (one, other) = (written(), written());
        let mut bytes = vec![[0; 4096]; 2];
        for (start, range) in RUNS {
            for offset in (0..range.len() as u64).step_by(4096) {
                one.as_file()
                    .read_exact_at(&mut bytes[0], start + offset)
                    .unwrap();
                other
                    .as_file()
                    .read_exact_at(&mut bytes[1], start + offset)
                    .unwrap();
                assert_eq!(bytes[0], bytes[1]);
                assert_ne!(bytes[0], [0; 4096]);
            }
        }
    }

    #[test]
    fn a_start_of_a_guest_writes_a_dozen_times_at_most() {
        assert!(RUNS.len() <= 12, "{RUNS:?}");
    }

    #[test]
    fn linux_writes_no_tables_and_reads_no_bitmaps_in_the_background() {
        let all = said_by("/sbin/dumpe2fs", &[]);
        let groups = all.lines().filter(|line| line.starts_with("Group "));
        let zeroed = groups.clone().filter(|line| line.contains("ITABLE_ZEROED"));
        assert_eq!((groups.count(), zeroed.count()), (512, 512));
        assert!(all.contains("no_prefetch_block_bitmaps"));
    }

    #[test]
    fn it_has_what_programs_expect_of_a_disk_and_nothing_that_a_guest_pays_for() {
        let header = said_by("/sbin/dumpe2fs", &["-h"]);
        let value = |name: &str| {
            let line = header.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name} in {header}")).trim()
        };
        assert_eq!(value("Filesystem state:"), "clean");
        assert_eq!(value("Default mount options:"), "user_xattr acl discard");
        assert_eq!(value("Reserved block count:"), "0");
        assert_eq!(value("Inode count:"), "4194304");
        assert_eq!(value("Flex block group size:"), "4");
        let features: Vec<&str> = value("Filesystem features:").split(' ').collect();
        for feature in ["extent", "dir_index", "metadata_csum", "sparse_super2"] {
            assert!(features.contains(&feature), "{feature} is not in {features:?}");
        }
        for feature in ["resize_inode", "has_journal"] {
            assert!(!features.contains(&feature), "{features:?}");
        }
    }

    #[test]
    fn overlayfs_has_its_two_directories_which_belong_to_root() {
        for name in ["upper", "work"] {
            let listed = said_by("/sbin/debugfs", &["-R", &format!("stat /{name}")]);
            assert!(listed.contains("Type: directory    Mode:  0755"), "{listed}");
            assert!(listed.contains("User:     0   Group:     0"), "{listed}");
        }
    }
}
