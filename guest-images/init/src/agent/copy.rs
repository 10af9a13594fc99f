//! Copies files between host and guest: a process of the agent's own, with streams as any program has them. An archive is its standard
//! input or its standard output, and its standard error says what went wrong.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use coracle_agent_protocol::{CopyIn, CopyOut, CopySource, Failure, Reason, copy_status};
use coracle_archive::{Destination, Policy, Reader, Source, Unpacker, destination, pack};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::SigSet;
use nix::unistd::{ForkResult, Pid, fork, setsid, syncfs};

use super::start::{Started, Streams, pipes};

/// Bytes of an archive that are read or written at once.
const BUFFER: usize = 64 << 10;

/// What is copied.
#[derive(Clone, Copy)]
pub enum Copy<'a> {
    In(&'a CopyIn),
    Out(&'a CopyOut),
}

/// Starts the process.
pub fn start(copy: Copy) -> Result<Started, Failure> {
    let cannot = |why: Errno| {
        Failure::new(
            Reason::Other,
            format!("cannot start a process to copy: {}", why.desc()),
        )
    };
    let streams = pipes().map_err(cannot)?;
    // SAFETY: where this process has other threads, in tests, the child uses nothing of them but the allocator, which
    // fork(3) leaves usable.
    match unsafe { fork() }.map_err(cannot)? {
        ForkResult::Parent { child } => Ok(Started {
            pid: child,
            pidfd: pidfd(child).map_err(cannot)?,
            input: streams.input,
            output: streams.output,
            error: streams.error,
        }),
        ForkResult::Child => {
            let status = in_child(copy, streams);
            // SAFETY: ends this process, and runs nothing that its parent had wanted at its own end.
            unsafe { libc::_exit(status.into()) }
        }
    }
}

fn pidfd(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: a system call with numbers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    // SAFETY: the kernel has just made the descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn in_child(copy: Copy, streams: Streams) -> u8 {
    let [stdin, stdout, stderr] = streams.theirs;
    // The ends of the process that carries the streams. As long as one is open here, this process never reads an end.
    drop((streams.input, streams.output, streams.error));
    // A session has a group, which the guest's end and signals reach.
    let _ = setsid();
    let _ = SigSet::all().thread_unblock();
    let mut stderr = File::from(stderr);
    let mut complain = stderr.try_clone();
    let mut warn = |text: &str| {
        if let Ok(stderr) = &mut complain {
            // Otherwise nobody is there who could be told.
            let _ = writeln!(stderr, "{text}");
        }
    };
    let copied = match copy {
        Copy::In(copy) => {
            drop(stdout);
            copy_in(copy, stdin.into(), &mut warn)
        }
        Copy::Out(copy) => {
            drop(stdin);
            copy_out(copy, stdout.into(), &mut warn)
        }
    };
    match copied {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(stderr, "{error}");
            match error.kind() {
                ErrorKind::NotFound => copy_status::NOT_FOUND,
                _ => 1,
            }
        }
    }
}

fn copy_in(copy: &CopyIn, archive: File, warn: &mut dyn FnMut(&str)) -> io::Result<()> {
    let name = |name: &[u8]| OsStr::from_bytes(name).to_owned();
    let source = match &copy.source {
        CopySource::File(file) => Source::File(name(file)),
        CopySource::Directory { name: file, contents } => Source::Directory {
            name: name(file),
            contents: *contents,
        },
        CopySource::Archive => Source::Archive,
    };
    let Destination { directory, top } = destination(&from_root(&copy.path), &source)?;
    let file_system = directory.try_clone()?;
    let policy = Policy {
        owners: copy.owners,
        // An archive may be another guest's.
        is_trusted: copy.owners || copy.source != CopySource::Archive,
    };
    let mut reader = Reader::new(BufReader::with_capacity(BUFFER, archive));
    let mut unpacker = Unpacker::new(directory, top, policy, warn);
    while let Some(entry) = reader.next_entry()? {
        unpacker.put(entry, &mut reader)?;
    }
    unpacker.finish()?;
    // Who is told that the copy is made may end the guest at once.
    syncfs(&file_system)?;
    // Archives are filled up at their end.
    let mut rest = reader.into_inner();
    let mut buffer = [0; 4096];
    while rest.read(&mut buffer)? > 0 {}
    Ok(())
}

fn copy_out(copy: &CopyOut, archive: File, warn: &mut dyn FnMut(&str)) -> io::Result<()> {
    // The host uses no name of the guest's, and so not this one.
    let sink = BufWriter::with_capacity(BUFFER, archive);
    let path = from_root(&copy.path);
    let name = path.file_name().map_or(&b"root"[..], OsStr::as_bytes);
    pack(&path, name, copy.follows, sink, warn).map(drop)
}

fn from_root(path: &[u8]) -> PathBuf {
    // `join` would take a slash or a dot at the end away, which mean something.
    match path.starts_with(b"/") {
        true => OsStr::from_bytes(path).into(),
        false => PathBuf::from(std::ffi::OsString::from_vec([b"/", path].concat())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_relative_path_begins_at_the_root_and_keeps_its_end() {
        for (given, is) in [("etc/", "/etc/"), ("/etc/.", "/etc/."), ("a", "/a")] {
            assert_eq!(from_root(given.as_bytes()).as_os_str(), Path::new(is).as_os_str());
        }
    }
}
