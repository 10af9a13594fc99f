//! What code could do that has taken the running process over: system calls are made inside each of its threads.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Child, Command, Stdio};

use libc::c_long;

use crate::support::owned::{Owned, is_refusal, threads, wait_for_thread};
use crate::support::{Coracle, Running, need_kvm};

guest!(
    say_afloat,
    "
    say \"afloat\"
2:
    sti
    hlt
    jmp 2b
"
);

/// A run with a guest that has started, and its disks.
struct Run {
    running: Running,
    folder: tempfile::TempDir,
}

impl Run {
    /// With every kind of thread that a run can have.
    fn start(confine: &str) -> Self {
        need_kvm();
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        for disk in ["uring", "sync", "read-only"] {
            fs::write(file(disk), vec![0; 1 << 20]).unwrap();
        }
        let mut running = Coracle::run(&say_afloat().linux64())
            .args(&["-v", "--confine", confine, "--cpus", "2"])
            .args(&["--disk", &format!("{},engine=uring", file("uring"))])
            .args(&["--disk", &format!("{},engine=sync", file("sync"))])
            .args(&["--disk", &format!("{},ro", file("read-only"))])
            .args(&[&format!("--timings={}", file("timings.json"))])
            .keyboard()
            .start();
        running.wait_for("afloat");
        // It is the last that main starts.
        wait_for_thread(&running, "timings");
        Self { running, folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Takes the thread over in which a process begins.
    fn main(&self) -> Owned {
        Owned::take(&self.running, self.running.id() as i32)
    }

    fn end(self) {
        self.running.signal(libc::SIGTERM);
        self.running.end().with_code(143);
    }
}

/// The value of a line in /proc/PID/task/TID/status.
fn status(running: &Running, thread: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/task/{thread}/status", running.id())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

/// Does something that must work in an unconfined run, since otherwise a refusal would show nothing, and must be refused in
/// each thread of a confined one.
fn is_refused(what: impl Fn(&mut Owned, &Run) -> io::Result<c_long>) {
    let unconfined = Run::start("off");
    what(&mut unconfined.main(), &unconfined).expect("it works without confinement");
    unconfined.end();
    is_refused_where_confined(what);
}

/// Does something that must be refused in each thread of a confined run.
fn is_refused_where_confined(what: impl Fn(&mut Owned, &Run) -> io::Result<c_long>) {
    let mut run = Run::start("require");
    let names: Vec<_> = threads(&run.running).into_iter().map(|(_, name)| name).collect();
    // The main thread, two vCPUs, those of the disks' queues, of the console, of Coracle's own lines and of the timings.
    assert!(names.len() >= 9, "{names:?}");
    for name in names {
        let thread = threads(&run.running)
            .into_iter()
            .find(|(_, other)| *other == name);
        let (thread, _) = thread.unwrap_or_else(|| panic!("no {name} this time"));
        let mut owned = Owned::take(&run.running, thread);
        let error = what(&mut owned, &run).expect_err(&name);
        assert!(is_refusal(&error), "{error} in {name}");
        let has_ended = owned.has_ended();
        drop(owned);
        if has_ended {
            run = Run::start("require");
        }
    }
    run.end();
}

#[test]
fn no_thread_has_a_capability_and_no_program_gets_more() {
    let run = Run::start("require");
    for (thread, name) in threads(&run.running) {
        assert_eq!(status(&run.running, thread, "NoNewPrivs"), "1", "{name}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let value = status(&run.running, thread, set);
            assert_eq!(value, "0000000000000000", "{set} of {name}");
        }
    }
    run.end();
}

#[test]
fn neither_a_core_nor_guest_memory_is_dumped() {
    let run = Run::start("require");
    let of_process = |file| fs::read_to_string(format!("/proc/{}/{file}", run.running.id())).unwrap();
    let limits = of_process("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size"));
    assert_eq!(core.unwrap().split_whitespace().nth(4), Some("0"), "{core:?}");
    let mappings = of_process("smaps");
    let mut size = 0;
    let dumped = mappings.lines().filter(|line| {
        if let Some(kib) = line.strip_prefix("Size:") {
            size = kib.trim_end_matches("kB").trim().parse::<u64>().unwrap();
        }
        let has = |flag| line.split(' ').any(|word| word == flag);
        // Nothing else that can be written is as large.
        line.starts_with("VmFlags:") && size >= 32 << 10 && has("wr") && !has("dd")
    });
    assert_eq!(dumped.count(), 0, "{mappings}");
    run.end();
}

#[test]
fn no_secret_of_the_host_can_be_read() {
    is_refused(|owned, _| owned.open("/etc/shadow", libc::O_RDONLY));
}

#[test]
fn no_file_of_the_persons_can_be_read() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("letter").display().to_string();
    fs::write(&path, "dear").unwrap();
    is_refused(|owned, _| owned.open(&path, libc::O_RDONLY));
}

#[test]
fn no_memory_of_another_process_can_be_read() {
    let memory = format!("/proc/{}/mem", std::process::id());
    is_refused(|owned, _| owned.open(&memory, libc::O_RDONLY));
}

#[test]
fn no_kvm_can_be_opened_anew() {
    is_refused(|owned, _| owned.open("/dev/kvm", libc::O_RDWR));
}

#[test]
fn no_file_can_be_made() {
    is_refused(|owned, run| owned.open(&run.path("new"), libc::O_RDWR | libc::O_CREAT));
}

#[test]
fn a_read_only_disk_can_be_written_neither_by_its_path_nor_by_its_descriptor() {
    is_refused(|owned, run| owned.open(&run.path("read-only"), libc::O_RDWR));
    let descriptor = |run: &Run| {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", run.running.id())).unwrap();
        let disk = run.folder.path().join("read-only");
        let mut descriptors = descriptors.flatten().filter_map(|entry| {
            let is_disk = fs::read_link(entry.path()).is_ok_and(|path| path == disk);
            is_disk.then(|| entry.file_name().to_str()?.parse::<c_long>().ok())?
        });
        descriptors.next().expect("the disk is open")
    };
    is_refused(|owned, run| owned.open(&format!("/proc/self/fd/{}", descriptor(run)), libc::O_RDWR));
    // The descriptor itself is refused to everybody.
    is_refused_where_confined(|owned, run| {
        let byte = owned.put(b"x", 0);
        let written = owned.call(libc::SYS_pwrite64, &[descriptor(run), byte, 1, 0]);
        written.map_err(|error| match error.raw_os_error() {
            Some(libc::EBADF) => io::Error::from_raw_os_error(libc::EACCES),
            _ => error,
        })
    });
}

#[test]
fn no_file_can_be_removed_cut_or_renamed() {
    is_refused(|owned, run| {
        let path = run.path("removable");
        fs::write(&path, "").unwrap();
        let path = owned.text(&path, 0);
        owned.call(libc::SYS_unlink, &[path])
    });
    is_refused(|owned, run| {
        let path = owned.text(&run.path("sync"), 0);
        owned.call(libc::SYS_truncate, &[path, 0])
    });
    is_refused(|owned, run| {
        fs::write(run.path("one"), "").unwrap();
        let (one, other) = (owned.text(&run.path("one"), 0), owned.text(&run.path("other"), 1));
        owned.call(libc::SYS_rename, &[one, other])
    });
}

#[test]
fn nothing_can_be_mounted() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().display().to_string();
    is_refused(|owned, _| {
        let (kind, path) = (owned.text("tmpfs", 0), owned.text(&path, 1));
        owned.call(libc::SYS_mount, &[kind, path, kind, 0, 0])
    });
    // The unconfined process has mounted it.
    assert!(Command::new("umount").arg(&path).status().unwrap().success());
}

#[test]
fn no_program_can_be_started() {
    let unconfined = Run::start("off");
    let main = unconfined.main();
    let program = main.text("/bin/true", 0);
    main.call_and_leave(libc::SYS_execve, &[program, 0, 0]);
    unconfined.running.end().with_code(0);
    is_refused_where_confined(|owned, _| {
        let program = owned.text("/bin/true", 0);
        owned.call(libc::SYS_execve, &[program, 0, 0])
    });
}

#[test]
#[ignore = "this host's kernel may have no modules: tests/linux runs this in the nested machine"]
fn no_module_can_be_loaded_into_the_hosts_kernel() {
    let load = |owned: &mut Owned| {
        let (image, arguments) = (owned.text("no module", 0), owned.text("", 1));
        owned.call(libc::SYS_init_module, &[image, 9, arguments])
    };
    is_refused(|owned, _| match load(owned) {
        // It looked at the module, which is none.
        Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => Ok(0),
        result => result,
    });
}

#[test]
fn no_tcp_connection_can_be_made() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let [high, low] = listener.local_addr().unwrap().port().to_be_bytes();
    is_refused(|owned, _| {
        let socket = owned.call(
            libc::SYS_socket,
            &[libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0],
        )?;
        let address = owned.put(&[2, 0, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], 0);
        owned.call(libc::SYS_connect, &[socket, address, 16])
    });
}

#[test]
fn no_unix_socket_can_be_reached_by_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let _listener = UnixListener::bind(&path).unwrap();
    is_refused(|owned, _| {
        let socket = owned.call(
            libc::SYS_socket,
            &[libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0],
        )?;
        let bytes = [&[1, 0][..], path.as_os_str().as_bytes(), &[0]].concat();
        let address = owned.put(&bytes, 0);
        owned.call(libc::SYS_connect, &[socket, address, bytes.len() as c_long])
    });
}

#[test]
fn no_file_of_the_host_can_be_looked_at() {
    is_refused(|owned, _| {
        let path = owned.text("/etc/passwd", 0);
        let result = owned.put(&[0; 256], 1);
        owned.call(libc::SYS_stat, &[path, result])
    });
}

#[test]
fn no_abstract_socket_can_be_reached() {
    let name = format!("coracle-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    is_refused(|owned, _| {
        let socket = owned.call(
            libc::SYS_socket,
            &[libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0],
        )?;
        let bytes = [&[1, 0, 0][..], name.as_bytes()].concat();
        let address = owned.put(&bytes, 0);
        owned.call(libc::SYS_connect, &[socket, address, bytes.len() as c_long])
    });
}

/// Another process of the same user, killed when this is dropped.
struct Other(Child);

impl Other {
    fn start() -> Self {
        let mut sleep = Command::new("sleep");
        Self(sleep.arg("1000").stdin(Stdio::null()).spawn().unwrap())
    }

    fn id(&self) -> c_long {
        self.0.id().into()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn no_other_process_can_be_sent_a_signal() {
    let other = Other::start();
    is_refused(|owned, _| owned.call(libc::SYS_kill, &[other.id(), libc::SIGCONT.into()]));
}

#[test]
fn no_other_process_can_be_traced() {
    let other = Other::start();
    is_refused(|owned, _| owned.call(libc::SYS_ptrace, &[libc::PTRACE_SEIZE.into(), other.id(), 0, 0]));
}

#[test]
fn no_ring_opens_a_file() {
    /// struct io_uring_params, io_uring(7).
    const PARAMETERS: usize = 120;
    const OFFSET_OF_SQES: c_long = 0x1000_0000;
    const OPENAT: u8 = 18;
    is_refused(|owned, run| {
        let parameters = owned.put(&[0; PARAMETERS], 0);
        let ring = owned.call(libc::SYS_io_uring_setup, &[1, parameters])?;
        let field = |owned: &Owned, offset| owned.read_u32(parameters + offset) as c_long;
        let map = |owned: &mut Owned, offset| {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let how = libc::MAP_SHARED;
            owned.call(
                libc::SYS_mmap,
                &[0, 4096, protection.into(), how.into(), ring, offset],
            )
        };
        // The queue and the completions are in one mapping (IORING_FEAT_SINGLE_MMAP).
        let (queue, entries) = (map(owned, 0)?, map(owned, OFFSET_OF_SQES)?);
        // opcode, flags, priority, descriptor, offset, address, length (the mode), flags of openat(2): O_RDONLY
        let path = owned.text(&run.path("read-only"), 1);
        let entry = [
            &[OPENAT, 0, 0, 0][..],
            &libc::AT_FDCWD.to_le_bytes(),
            &0u64.to_le_bytes(),
            &path.to_le_bytes(),
            &[0; 40],
        ]
        .concat();
        owned.write(entries, &entry);
        // sq_off.tail and sq_off.array, cq_off.cqes
        let (tail, array, completions) = (field(owned, 44), field(owned, 64), field(owned, 100));
        owned.write(queue + array, &[0; 4]);
        owned.write(queue + tail, &1u32.to_le_bytes());
        /// IORING_ENTER_GETEVENTS
        const WAIT: c_long = 1;
        owned.call(libc::SYS_io_uring_enter, &[ring, 1, 1, WAIT, 0, 0])?;
        // struct io_uring_cqe: user_data, then the result
        match owned.read_u32(queue + completions + 8) as i32 {
            error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
            descriptor => Ok(descriptor.into()),
        }
    });
}

#[test]
fn root_can_become_another_user() {
    need_kvm();
    let mut running = Coracle::run(&say_afloat().linux64())
        .args(&["-v", "--host-user", "1234:5678"])
        .through(&["setpriv", "--groups", "7,8"])
        .keyboard()
        .start();
    running.wait_for("afloat");
    for (thread, name) in threads(&running) {
        assert_eq!(status(&running, thread, "Uid"), ["1234"; 4].join("\t"), "{name}");
        assert_eq!(status(&running, thread, "Gid"), ["5678"; 4].join("\t"), "{name}");
        assert_eq!(status(&running, thread, "Groups"), "", "{name}");
    }
    running.signal(libc::SIGTERM);
    running.end().with_code(143);
}
