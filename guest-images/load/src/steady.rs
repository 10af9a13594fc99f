//! What the kernel does for programs all day, each by itself, timed: `load steady DIRECTORY`.
//!
//! Of each a line `steady NAME NANOSECONDS`, for one of it. DIRECTORY is on a disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write, pipe};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;
/// Given to this program where it is to end at once.
pub const NOTHING: &str = "nothing";

/// Does something so many times.
type Work = fn(&Place, u32) -> io::Result<()>;

/// What is timed, and how many times.
const WORKS: &[(&str, u32, Work)] = &[
    ("system call", 100_000, system_call),
    ("read of a byte of /dev/zero", 20_000, read_a_byte),
    ("stat", 20_000, stat),
    ("open and close", 10_000, open),
    ("signal to itself", 10_000, signal),
    ("epoll that finds something", 20_000, epoll),
    ("byte through a pipe", 10_000, byte_through_a_pipe),
    (
        "switch to another process and back, pipes",
        3_000,
        switch_by_pipes,
    ),
    (
        "switch to another process and back, sockets",
        3_000,
        switch_by_sockets,
    ),
    ("switch to another thread and back, futex", 3_000, switch_by_futex),
    ("start and end of a thread", 500, start_thread),
    ("fork and exit", 300, fork_and_exit),
    ("start and end of a program", 100, start_program),
    ("mmap and munmap of a page", 10_000, map_a_page),
    ("mprotect", 10_000, protect_a_page),
    ("page fault, new memory", 16_384, fault_new_memory),
    ("page fault, memory of a fork", 4_096, fault_after_fork),
    ("page fault, file in the page cache", 8_192, fault_file),
    ("MiB through a pipe", 64, mib_through_a_pipe),
    ("MiB read from the page cache", 64, mib_from_page_cache),
    ("MiB written to memory's file system", 64, mib_to_memory),
    ("file made, written and removed, ext4", 500, make_a_file),
    ("4 KiB written and durable, ext4", 100, write_durably),
    ("MiB written and durable, ext4", 32, mib_to_disk),
    ("MiB read from the disk, ext4", 32, mib_from_disk),
];

/// Where files are made.
struct Place {
    on_disk: PathBuf,
    in_memory: PathBuf,
}

pub fn run(directory: &str) -> io::Result<()> {
    let place = Place {
        on_disk: directory.into(),
        in_memory: "/steady".into(),
    };
    fs::create_dir_all(&place.in_memory)?;
    fs::write(place.file(), vec![1; 4 * MIB])?;
    for (name, count, work) in WORKS {
        work(&place, count.div_ceil(10))?;
        let begin = Instant::now();
        work(&place, *count)?;
        println!(
            "steady {name} {}",
            begin.elapsed().as_nanos() / u128::from(*count)
        );
    }
    Ok(())
}

impl Place {
    /// A file of 4 MiB in memory.
    fn file(&self) -> PathBuf {
        self.in_memory.join("file")
    }
}

/// The error of a system call that gave -1.
fn done(result: impl Into<i64>) -> io::Result<i64> {
    match result.into() {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

fn system_call(_: &Place, count: u32) -> io::Result<()> {
    for _ in 0..count {
        // SAFETY: a system call without pointers.
        unsafe { libc::syscall(libc::SYS_getppid) };
    }
    Ok(())
}

fn read_a_byte(_: &Place, count: u32) -> io::Result<()> {
    let mut zero = File::open("/dev/zero")?;
    (0..count).try_for_each(|_| zero.read_exact(&mut [0]))
}

fn stat(place: &Place, count: u32) -> io::Result<()> {
    let path = place.file();
    (0..count).try_for_each(|_| fs::symlink_metadata(&path).map(drop))
}

fn open(place: &Place, count: u32) -> io::Result<()> {
    let path = place.file();
    (0..count).try_for_each(|_| File::open(&path).map(drop))
}

fn signal(_: &Place, count: u32) -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: the handler does nothing, and the signals are this process' own.
    unsafe {
        libc::signal(
            libc::SIGUSR1,
            nothing as extern "C" fn(libc::c_int) as libc::sighandler_t,
        );
        for _ in 0..count {
            done(libc::raise(libc::SIGUSR1))?;
        }
    }
    Ok(())
}

fn epoll(_: &Place, count: u32) -> io::Result<()> {
    let (reader, mut writer) = UnixStream::pair()?;
    writer.write_all(&[0])?;
    // SAFETY: the event lives across the calls, and the descriptor is closed once.
    unsafe {
        let epoll = done(libc::epoll_create1(0))? as RawFd;
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: 0,
        };
        done(libc::epoll_ctl(
            epoll,
            libc::EPOLL_CTL_ADD,
            reader.as_raw_fd(),
            &mut event,
        ))?;
        for _ in 0..count {
            done(libc::epoll_wait(epoll, &mut event, 1, -1))?;
        }
        libc::close(epoll);
    }
    Ok(())
}

fn byte_through_a_pipe(_: &Place, count: u32) -> io::Result<()> {
    let (mut reader, mut writer) = pipe()?;
    (0..count).try_for_each(|_| {
        writer.write_all(&[0])?;
        reader.read_exact(&mut [0])
    })
}

fn switch_by_pipes(_: &Place, count: u32) -> io::Result<()> {
    let (mut there, mut from_here) = pipe()?;
    let (mut here, mut from_there) = pipe()?;
    beside(
        || echo(&mut there, &mut from_there, count),
        || ask(&mut here, &mut from_here, count),
    )
}

fn switch_by_sockets(_: &Place, count: u32) -> io::Result<()> {
    let (here, there) = UnixStream::pair()?;
    beside(
        || echo(&mut &there, &mut &there, count),
        || ask(&mut &here, &mut &here, count),
    )
}

fn echo(from: &mut impl Read, to: &mut impl Write, count: u32) -> io::Result<()> {
    (0..count).try_for_each(|_| {
        from.read_exact(&mut [0])?;
        to.write_all(&[0])
    })
}

fn ask(from: &mut impl Read, to: &mut impl Write, count: u32) -> io::Result<()> {
    (0..count).try_for_each(|_| {
        to.write_all(&[0])?;
        from.read_exact(&mut [0])
    })
}

fn switch_by_futex(_: &Place, count: u32) -> io::Result<()> {
    static TURN: AtomicU32 = AtomicU32::new(0);
    let take_turns = |mine: u32| {
        for _ in 0..count {
            while TURN.load(Ordering::Acquire) != mine {
                // SAFETY: the word lives as long as the program.
                unsafe {
                    libc::syscall(
                        libc::SYS_futex,
                        TURN.as_ptr(),
                        libc::FUTEX_WAIT,
                        1 - mine,
                        ptr::null::<u8>(),
                    )
                };
            }
            TURN.store(1 - mine, Ordering::Release);
            // SAFETY: as above.
            unsafe { libc::syscall(libc::SYS_futex, TURN.as_ptr(), libc::FUTEX_WAKE, 1) };
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| take_turns(1));
        take_turns(0);
    });
    Ok(())
}

fn start_thread(_: &Place, count: u32) -> io::Result<()> {
    (0..count).try_for_each(|_| {
        thread::spawn(|| ())
            .join()
            .map_err(|_| io::ErrorKind::Other.into())
    })
}

fn fork_and_exit(_: &Place, count: u32) -> io::Result<()> {
    (0..count).try_for_each(|_| beside(|| Ok(()), || Ok(())))
}

fn start_program(_: &Place, count: u32) -> io::Result<()> {
    (0..count).try_for_each(
        |_| match Command::new("/proc/self/exe").arg(NOTHING).status()?.success() {
            true => Ok(()),
            false => Err(io::Error::other("the program failed")),
        },
    )
}

fn map_a_page(_: &Place, count: u32) -> io::Result<()> {
    (0..count).try_for_each(|_| Map::new(PAGE, None).map(drop))
}

fn protect_a_page(_: &Place, count: u32) -> io::Result<()> {
    let map = Map::new(PAGE, None)?;
    map.touch();
    for number in 0..count {
        let protection = if number % 2 == 0 {
            libc::PROT_READ
        } else {
            libc::PROT_READ | libc::PROT_WRITE
        };
        // SAFETY: the page is this map's own, and nobody reads or writes it meanwhile.
        done(unsafe { libc::mprotect(map.start.cast(), PAGE, protection) })?;
    }
    Ok(())
}

fn fault_new_memory(_: &Place, count: u32) -> io::Result<()> {
    const PAGES: u32 = 4096;
    let rounds = count.div_ceil(PAGES);
    (0..rounds).try_for_each(|_| {
        Map::new(PAGE * PAGES.min(count) as usize, None)?.touch();
        Ok(())
    })
}

fn fault_after_fork(_: &Place, count: u32) -> io::Result<()> {
    let map = Map::new(PAGE * count as usize, None)?;
    map.touch();
    beside(
        || {
            map.touch();
            Ok(())
        },
        || Ok(()),
    )
}

fn fault_file(place: &Place, count: u32) -> io::Result<()> {
    let file = File::open(place.file())?;
    let pages = (4 * MIB / PAGE) as u32;
    (0..count.div_ceil(pages)).try_for_each(|_| {
        Map::new(PAGE * pages.min(count) as usize, Some(&file))?.touch();
        Ok(())
    })
}

fn mib_through_a_pipe(_: &Place, count: u32) -> io::Result<()> {
    let (mut reader, mut writer) = pipe()?;
    let bytes = u64::from(count) * MIB as u64;
    beside(
        move || {
            let piece = [1; 0x1_0000];
            (0..bytes / piece.len() as u64).try_for_each(|_| writer.write_all(&piece))
        },
        || {
            let mut piece = [0; 0x1_0000];
            (0..bytes / piece.len() as u64).try_for_each(|_| reader.read_exact(&mut piece))
        },
    )
}

fn mib_from_page_cache(place: &Place, count: u32) -> io::Result<()> {
    let mut file = File::open(place.file())?;
    let mut piece = vec![0; MIB];
    (0..count).try_for_each(|number| {
        if number % 4 == 0 {
            file.rewind()?;
        }
        file.read_exact(&mut piece)
    })
}

fn mib_to_memory(place: &Place, count: u32) -> io::Result<()> {
    let path = place.in_memory.join("written");
    write_mib(&path, count.min(64))?;
    fs::remove_file(path)
}

fn make_a_file(place: &Place, count: u32) -> io::Result<()> {
    let path = place.on_disk.join("made");
    (0..count).try_for_each(|_| {
        fs::write(&path, [1; 1000])?;
        fs::remove_file(&path)
    })
}

fn write_durably(place: &Place, count: u32) -> io::Result<()> {
    let mut file = File::create(place.on_disk.join("durable"))?;
    (0..count).try_for_each(|_| {
        file.write_all(&[1; PAGE])?;
        file.sync_data()
    })
}

fn mib_to_disk(place: &Place, count: u32) -> io::Result<()> {
    write_mib(&place.on_disk.join("written"), count)?.sync_all()
}

fn mib_from_disk(place: &Place, count: u32) -> io::Result<()> {
    let mut file = File::open(place.on_disk.join("written"))?;
    // SAFETY: a system call without pointers.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    let mut piece = vec![0; MIB];
    (0..count).try_for_each(|_| file.read_exact(&mut piece))
}

fn write_mib(path: &Path, count: u32) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    let piece = vec![1; MIB];
    (0..count).try_for_each(|_| file.write_all(&piece))?;
    Ok(file)
}

/// Does one thing in a child and the other here, and waits for the child.
fn beside(there: impl FnOnce() -> io::Result<()>, here: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    // SAFETY: this process has one thread, so the child may do all that its parent may.
    let child = done(unsafe { libc::fork() })?;
    if child == 0 {
        let status = i32::from(there().is_err());
        // SAFETY: ends the child, and runs nothing of the parent's.
        unsafe { libc::_exit(status) };
    }
    here()?;
    let mut status = 0;
    // SAFETY: the status lives across the call.
    done(unsafe { libc::waitpid(child as i32, &mut status, 0) })?;
    match status {
        0 => Ok(()),
        _ => Err(io::Error::other("the child failed")),
    }
}

/// Memory of this process' own.
struct Map {
    start: *mut u8,
    size: usize,
    is_writable: bool,
}

impl Map {
    /// New memory, or a file's, which is only read.
    fn new(size: usize, file: Option<&File>) -> io::Result<Self> {
        let (protection, flags, fd) = match file {
            Some(file) => (libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd()),
            None => (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
            ),
        };
        // SAFETY: makes a map of its own place, which nothing else refers to.
        let start = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: start.cast(),
            size,
            is_writable: file.is_none(),
        })
    }

    /// Touches each page.
    fn touch(&self) {
        for offset in (0..self.size).step_by(PAGE) {
            // SAFETY: within the map, which is this process' own.
            unsafe {
                let byte = self.start.add(offset);
                match self.is_writable {
                    true => byte.write_volatile(1),
                    false => drop(byte.read_volatile()),
                }
            }
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the map is this one's, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.cast(), self.size) };
    }
}
