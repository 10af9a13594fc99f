use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;

use libc::c_long;

use crate::named::Harbour;
use crate::support::owned::{Owned, threads, wait_for_thread};
use crate::support::pipe::pipe;
use crate::support::screen::wait_until;
use crate::support::terminal::Terminal;
use crate::support::{Coracle, Running, need_kvm};

guest!(
    say_ready,
    "
    say \"ready\"
2:
    pause
    jmp 2b
"
);

/// A run with every kind of thread, whose guest has started.
fn start(more: &[&str]) -> (Running, tempfile::TempDir) {
    need_kvm();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    for disk in ["uring", "sync"] {
        fs::write(file(disk), vec![0; 1 << 20]).unwrap();
    }
    let mut running = Coracle::run(&say_ready().linux64())
        .args(&[
            "-v",
            "--cpus",
            "2",
            "--disk",
            &format!("{},engine=uring", file("uring")),
        ])
        .args(&["--disk", &format!("{},engine=sync", file("sync"))])
        .args(&["--vsock", &file("vsock")])
        .args(&[&format!("--timings={}", file("timings.json"))])
        .args(more)
        .keyboard()
        .start();
    running.wait_for("ready");
    // It is the last that main starts, after main has narrowed its own filter.
    wait_for_thread(&running, "timings");
    (running, folder)
}

/// The value of a line in the status of a thread (proc(5)).
fn status(running: &Running, thread: i32, name: &str) -> u32 {
    let text = fs::read_to_string(format!("/proc/{}/task/{thread}/status", running.machine())).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().parse().unwrap()
}

fn end(running: Running) {
    running.signal(libc::SIGTERM);
    running.end().with_code(143);
}

/// Waits until each thread has narrowed what it inherited, which it does when it first runs.
fn wait_until_narrowed(running: &Running) {
    wait_until("each thread has two filters", || {
        let threads = threads(running);
        threads
            .iter()
            .all(|(thread, _)| status(running, *thread, "Seccomp_filters") >= 2)
    });
}

/// Makes a system call in the thread with this name.
fn call(running: &Running, thread: &str, number: c_long, arguments: &[c_long]) {
    wait_until_narrowed(running);
    let threads = threads(running);
    let (thread, _) = threads.iter().find(|(_, name)| name == thread).unwrap();
    let mut owned = Owned::take(running, *thread);
    owned.call(number, arguments).expect_err("it is refused");
    assert!(owned.has_ended());
}

#[test]
fn each_thread_has_narrowed_what_it_inherited() {
    let (running, _folder) = start(&["--confine", "require"]);
    wait_until_narrowed(&running);
    let threads = threads(&running);
    // Main, two vCPUs, four disks' threads, the socket device, the console, Coracle's own lines, timings.
    assert!(threads.len() >= 10, "{threads:?}");
    for (thread, name) in threads {
        assert_eq!(status(&running, thread, "Seccomp"), 2, "{name}");
    }
    end(running);
}

#[test]
fn without_confinement_there_is_no_filter() {
    let (running, _folder) = start(&["--confine", "off"]);
    for (thread, name) in threads(&running) {
        assert_eq!(status(&running, thread, "Seccomp"), 0, "{name}");
    }
    end(running);
}

#[test]
fn a_refused_call_ends_the_run_and_is_told_with_its_thread() {
    for (thread, words) in [
        ("vcpu-1", "a vCPU's thread"),
        ("disk-uring", "a disk's thread"),
        ("disk-sync", "a disk's thread"),
        ("vsock", "the socket device's thread"),
        ("console", "a thread that writes output"),
        ("stderr", "a thread that writes output"),
        ("coracle", "the main thread"),
    ] {
        let (running, _folder) = start(&[]);
        call(
            &running,
            thread,
            libc::SYS_socket,
            &[libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0],
        );
        running
            .end()
            .with_code(114)
            .saying(&[&format!("{words} made system call 41 (socket)"), "report"]);
    }
}

/// Giving a lock back is what main may do with the files of disks, and with nothing else.
#[test]
fn only_a_machine_without_disks_sockets_and_a_name_is_refused_what_these_need() {
    let harbour = Harbour::new();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    fs::write(file("disk"), vec![0; 1 << 20]).unwrap();
    for (options, is_plain) in [
        (&["--cpus", "2", "--timings"][..], true),
        (&["--on-reboot", "restart"], true),
        (&["--disk", &file("disk")], false),
        (&["--vsock", &file("vsock")], false),
        (&["--name", "web"], false),
    ] {
        let mut running = harbour.run(&say_ready().linux64(), options).keyboard().start();
        running.wait_for("ready");
        wait_until_narrowed(&running);
        let mut main = Owned::take(&running, running.machine() as i32);
        let error = main
            .call(libc::SYS_flock, &[-1, libc::LOCK_UN.into()])
            .unwrap_err();
        assert_eq!(main.has_ended(), is_plain, "{options:?}: {error}");
        drop(main);
        match is_plain {
            true => drop(running.end().with_code(114).saying(&["(flock)"])),
            false => {
                assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{options:?}");
                end(running);
            }
        }
    }
}

#[test]
fn a_refused_call_leaves_the_terminal_as_it_was() {
    need_kvm();
    let terminal = Terminal::open(24, 80);
    let before = terminal.modes();
    let running = Coracle::run(&say_ready().linux64())
        .on_terminal(&terminal)
        .start();
    while !terminal.modes().is_raw() || !threads(&running).iter().any(|(_, name)| name == "vcpu-0") {
        std::thread::yield_now();
    }
    // The thread narrows its filter after it has got its name.
    let (vcpu, _) = *threads(&running)
        .iter()
        .find(|(_, name)| name == "vcpu-0")
        .unwrap();
    while status(&running, vcpu, "Seccomp_filters") < 2 {
        std::thread::yield_now();
    }
    call(&running, "vcpu-0", libc::SYS_getuid, &[]);
    running.end_unread().with_code(114);
    assert_eq!(terminal.modes(), before);
}

guest!(
    break_a_device,
    "
    break_disk
2:
    pause
    jmp 2b
"
);

/// The first line on stderr is that of a vCPU's thread, which may start no thread for it.
#[test]
fn a_line_of_a_thread_that_starts_none_is_shown_while_the_guest_runs() {
    need_kvm();
    let (reader, writer) = pipe();
    let running = Coracle::run(&break_a_device().linux64())
        .keyboard()
        .stderr(writer)
        .start();
    // Far more than it takes.
    const PATIENCE: i32 = 60_000;
    let mut poll = libc::pollfd {
        fd: reader.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, as it says.
    assert_eq!(
        unsafe { libc::poll(&mut poll, 1, PATIENCE) },
        1,
        "there is no line"
    );
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).unwrap();
    assert!(line.contains("the driver must reset it"), "{line}");
    running.signal(libc::SIGTERM);
    running.end().with_code(143);
}
