//! Loop devices for tests. The host takes each of them apart when the last descriptor of it is closed, also if the test's
//! process is killed.

use super::*;

/// From linux/loop.h.
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
/// From linux/blkpg.h.
const BLKPG: libc::Ioctl = 0x1269;
const ADD_PARTITION: libc::c_int = 1;
const AUTOCLEAR: u32 = 4;
const PARTITIONS: u32 = 8;

/// `struct loop_config` with the fields of `struct loop_info64` up to its flags.
#[repr(C)]
#[derive(Default)]
struct Configuration {
    file: u32,
    block_size: u32,
    before_flags: [u64; 6],
    key_size: u32,
    flags: u32,
    after_flags: [u64; 22],
    reserved: [u64; 8],
}

const _: () = assert!(
    mem::size_of::<Configuration>() == 304,
    "the size of struct loop_config"
);

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct PartitionRequest {
    operation: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    partition: *mut Partition,
}

/// `struct blkpg_partition`, in bytes.
#[repr(C)]
struct Partition {
    start: i64,
    length: i64,
    number: libc::c_int,
    names: [u8; 128],
}

/// A file as a block device of the host.
pub struct LoopDevice {
    pub path: PathBuf,
    device: File,
}

impl LoopDevice {
    pub fn new(file: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
        let control = open(Path::new("/dev/loop-control"), 0).unwrap_or_else(|error| {
            panic!("this test needs loop devices, which only root can make: {error}")
        });
        loop {
            // SAFETY: no memory is passed on.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            assert!(number >= 0, "{}", io::Error::last_os_error());
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let configuration = Configuration {
                file: file.as_raw_fd() as u32,
                flags: AUTOCLEAR | PARTITIONS,
                ..Configuration::default()
            };
            // SAFETY: the kernel reads a `loop_config`, which has the size of `Configuration`.
            match unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &configuration) } {
                0 => {
                    return Self { path, device };
                }
                _ => {
                    let error = io::Error::last_os_error();
                    // Another process took the number meanwhile.
                    assert_eq!(error.raw_os_error(), Some(libc::EBUSY), "{error}");
                }
            }
        }
    }

    /// Makes a partition of 256 KiB, the first or the second one, and returns its path. The host removes it with the device.
    pub fn add_partition(&self, number: libc::c_int) -> PathBuf {
        let mut partition = Partition {
            start: i64::from(number) << 18,
            length: 1 << 18,
            number,
            names: [0; 128],
        };
        let mut request = PartitionRequest {
            operation: ADD_PARTITION,
            flags: 0,
            length: mem::size_of::<Partition>() as libc::c_int,
            partition: &mut partition,
        };
        // SAFETY: the kernel reads the request and the partition, which both outlive the call.
        let result = unsafe { libc::ioctl(self.device.as_raw_fd(), BLKPG, &mut request) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        PathBuf::from(format!("{}p{number}", self.path.display()))
    }
}
