//! Starts a program.

use std::ffi::{CString, c_char, c_int, c_void};
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use coracle_agent_protocol::{Failure, Program, Reason, WindowSize};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::unistd::{Pid, pipe2};

use super::search::{environment_and_files, text};
use super::streams::make_nonblocking;
use super::users::User;

/// What the child needs beside what its parent has: it only calls the kernel.
const STACK: usize = 64 << 10;

/// A program that runs.
pub struct Started {
    pub pid: Pid,
    /// Readable once it has ended.
    pub pidfd: OwnedFd,
    /// The agent's ends of its streams. They do not block.
    pub input: File,
    pub output: File,
    /// Without a terminal.
    pub error: Option<File>,
}

/// The child's last step before an error, and the error.
#[derive(Clone, Copy)]
enum Step {
    Streams,
    Identity,
    Directory,
    Execute,
}

/// What the child is given. All of it is made before, since the child must not allocate.
struct Plan {
    /// What become its stdin, stdout and stderr.
    streams: [RawFd; 3],
    is_terminal: bool,
    user: User,
    directory: CString,
    files: Vec<*const c_char>,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    failed: Option<(Step, Errno)>,
}

mod ioctl {
    use nix::libc;
    nix::ioctl_write_int_bad!(open_other_end, libc::TIOCGPTPEER);
    nix::ioctl_write_ptr_bad!(set_lock, libc::TIOCSPTLCK, i32);
    nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, libc::winsize);
}

/// Starts `program`. It has a session of its own, so a signal for the group reaches all that it started.
pub fn start(program: &Program) -> Result<Started, Failure> {
    let other = |text: String| Failure::new(Reason::Other, text);
    let user = match &program.user {
        Some(text) => User::find(text).map_err(other)?,
        None => User::root(),
    };
    let cannot = |what: &str| {
        let what = what.to_owned();
        move |why: Errno| other(format!("cannot {what}: {}", why.desc()))
    };
    let streams = match program.terminal {
        Some(size) => terminal(size, &user).map_err(cannot("make a terminal for the program"))?,
        None => pipes().map_err(cannot("make pipes for the program"))?,
    };
    let (environment, files) = environment_and_files(program, &user);
    let arguments: Vec<CString> = program.arguments.iter().map(|argument| text(argument)).collect();
    let mut plan = Plan {
        streams: streams.theirs.each_ref().map(AsRawFd::as_raw_fd),
        is_terminal: program.terminal.is_some(),
        user,
        directory: text(program.directory.as_deref().unwrap_or(b"/")),
        files: pointers(&files),
        arguments: pointers(&arguments),
        environment: pointers(&environment),
        failed: None,
    };
    let (pid, pidfd) = run(&mut plan).map_err(cannot("start a process"))?;
    let Some((step, why)) = plan.failed else {
        return Ok(Started {
            pid,
            pidfd,
            input: streams.input,
            output: streams.output,
            error: streams.error,
        });
    };
    // It has ended, and nobody else waits for it.
    let _ = nix::sys::wait::waitpid(pid, None);
    let shown = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    let name = shown(&program.arguments[0]);
    Err(match (step, why) {
        (Step::Execute, Errno::ENOENT | Errno::ENOTDIR) => Failure::new(
            Reason::NotFound,
            format!("there is no program {name} in the guest"),
        ),
        (Step::Execute, _) => Failure::new(
            Reason::NotExecutable,
            format!("cannot execute {name}: {}", why.desc()),
        ),
        (Step::Directory, _) => {
            let directory = program.directory.as_deref().unwrap_or_default();
            cannot(&format!("start in {}", shown(directory)))(why)
        }
        (Step::Identity, _) => cannot("become that user")(why),
        (Step::Streams, _) => cannot("give the program its streams")(why),
    })
}

/// Both ends of a program's streams.
pub struct Streams {
    pub input: File,
    pub output: File,
    pub error: Option<File>,
    /// What become the program's stdin, stdout and stderr.
    pub theirs: [OwnedFd; 3],
}

pub fn pipes() -> nix::Result<Streams> {
    let (stdin, input) = pipe2(OFlag::O_CLOEXEC)?;
    let (output, stdout) = pipe2(OFlag::O_CLOEXEC)?;
    let (error, stderr) = pipe2(OFlag::O_CLOEXEC)?;
    for end in [&input, &output, &error] {
        make_nonblocking(end.as_fd())?;
    }
    Ok(Streams {
        input: input.into(),
        output: output.into(),
        error: Some(error.into()),
        theirs: [stdin, stdout, stderr],
    })
}

fn terminal(size: WindowSize, user: &User) -> nix::Result<Streams> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let mode = nix::sys::stat::Mode::empty();
    let ours = nix::fcntl::open("/dev/ptmx", flags | OFlag::O_NONBLOCK, mode)?;
    // SAFETY: the request reads one number, which lives across the call.
    unsafe { ioctl::set_lock(ours.as_raw_fd(), &0) }?;
    // SAFETY: the request takes a plain number.
    let theirs = unsafe { ioctl::open_other_end(ours.as_raw_fd(), flags.bits()) }?;
    // SAFETY: the kernel has just made the descriptor, and nobody else owns it.
    let theirs = unsafe { OwnedFd::from_raw_fd(theirs) };
    resize(ours.as_fd(), size)?;
    if user.uid != 0 {
        nix::unistd::fchown(&theirs, Some(user.uid.into()), None)?;
    }
    let copy = |fd: &OwnedFd| fd.try_clone().map_err(|_| Errno::last());
    Ok(Streams {
        input: copy(&ours)?.into(),
        output: ours.into(),
        error: None,
        theirs: [copy(&theirs)?, copy(&theirs)?, theirs],
    })
}

/// Gives a terminal its size, of which its program is told by a signal.
pub fn resize(terminal: std::os::fd::BorrowedFd, size: WindowSize) -> nix::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the request reads one winsize, which lives across the call.
    unsafe { ioctl::set_window_size(terminal.as_raw_fd(), &size) }.map(drop)
}

/// As execve(2) takes a list.
fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts
        .iter()
        .map(|text| text.as_ptr())
        .chain([ptr::null()])
        .collect()
}

/// Makes the child. It shares this process' memory, which a copy would cost a fifth of a millisecond, and this thread stands
/// still until the child has become the program or has ended.
fn run(plan: &mut Plan) -> nix::Result<(Pid, OwnedFd)> {
    let mut stack = Vec::<MaybeUninit<u128>>::with_capacity(STACK / size_of::<u128>());
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: the child runs on a stack of its own, down from its aligned end, with memory that lives until the call
    // returns. Its function calls nothing but the kernel, and never returns. The kernel writes `pidfd`.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.capacity());
        libc::clone(
            become_program,
            top.cast(),
            flags,
            ptr::from_mut(plan).cast(),
            &raw mut pidfd,
        )
    };
    let pid = Errno::result(pid)?;
    // SAFETY: the kernel has just made the descriptor, and nobody else owns it.
    Ok((Pid::from_raw(pid), unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

extern "C" fn become_program(plan: *mut c_void) -> c_int {
    // SAFETY: it is the plan that `run` gave, and its thread stands still.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    plan.failed = Some(follow(plan));
    // SAFETY: ends this process and runs nothing of the parent's.
    unsafe { libc::_exit(127) }
}

/// Comes back only with the step that failed, and why. Must not allocate, lock or panic.
fn follow(plan: &Plan) -> (Step, Errno) {
    let failed = |step| (step, Errno::last());
    // SAFETY: system calls with numbers, and with pointers into the plan, whose lists end with null.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none = MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
        libc::setsid();
        for (index, fd) in plan.streams.into_iter().enumerate() {
            if libc::dup2(fd, index as c_int) == -1 {
                return failed(Step::Streams);
            }
        }
        if plan.is_terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) == -1 {
            return failed(Step::Streams);
        }
        let User { uid, gid, groups, .. } = &plan.user;
        let is_root = *uid == 0 && *gid == 0 && groups.is_empty();
        // The C library would set the identity of all threads of the parent, too.
        if !is_root
            && (libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) == -1
                || libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid) == -1
                || libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid) == -1)
        {
            return failed(Step::Identity);
        }
        if libc::chdir(plan.directory.as_ptr()) == -1 {
            return failed(Step::Directory);
        }
        // As execvp(3): a file that cannot be executed is what is told if no other can be.
        let mut told = Errno::ENOENT;
        for file in &plan.files {
            if file.is_null() {
                break;
            }
            libc::execve(*file, plan.arguments.as_ptr(), plan.environment.as_ptr());
            match Errno::last() {
                Errno::ENOENT | Errno::ENOTDIR => {}
                Errno::EACCES => told = Errno::EACCES,
                why => return (Step::Execute, why),
            }
        }
        (Step::Execute, told)
    }
}
