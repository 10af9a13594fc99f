use std::fs::{self, DirBuilder, File};
use std::io::{self, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::control::{self, Control};
use super::place::{Folder, NEW, Place, is_taken};
use super::record::{self, Ended, Made, now};
use super::{Error, Handover, Name, console_log, lock};
use crate::console::Console;
use crate::random::random;

/// How many connections may wait at the control socket. The kernel makes it less (net.core.somaxconn). So many, because also a
/// process that accepts none, such as one that SIGSTOP has stopped, is found by connecting to it.
const BACKLOG: i32 = 4096;
/// How long the end waits for clients that are attached to the console and take none of its output.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
/// How often a directory is made anew because another process removed it, or a name made up because it was taken.
const TRIES: u32 = 32;

/// A guest's directory, as the guest's own process has it. Everything that is written to it later is open.
pub struct Own {
    place: Place,
    /// Holds [`Folder::keep_from_cleaners`] until the end of the process.
    _folder: Folder,
    /// The directory's name until [`Own::publish`].
    new: String,
    wanted: Option<Name>,
    name: Option<Name>,
    /// The console's log, and its times.
    console_log: Option<[File; 2]>,
    exit: File,
    socket: Option<UnixListener>,
    control: Arc<Control>,
    /// Who waits for the guest's start, if anybody does.
    starter: Option<Arc<PipeWriter>>,
    log: Option<JoinHandle<()>>,
    has_run: bool,
}

impl Own {
    /// Makes the directory of a guest, which nobody can see until [`Own::publish`]. Without a name one is made up.
    pub fn make(name: Option<Name>, made: &Made) -> Result<Self, Error> {
        let place = Place::open_or_make()?;
        if let Some(name) = &name
            && let Ok(guest) = place.find(name)
        {
            return Err(Error::taken(name, guest.is_running()));
        }
        let (new, folder, lock) =
            make_folder(&place).map_err(|source| place.error("make a directory in", source))?;
        let fill = || -> io::Result<_> {
            record::write(&mut folder.make("guest.json")?, made)?;
            let socket = UnixListener::bind(folder.inner("control.sock"))?;
            socket.set_nonblocking(true)?;
            let console_log = [folder.make("console.log")?, folder.make("console.times")?];
            Ok((console_log, folder.make("exit.json")?, socket))
        };
        let (console_log, exit, socket) = fill().map_err(|source| place.error("make files in", source))?;
        Ok(Self {
            place,
            _folder: folder,
            new,
            wanted: name,
            name: None,
            console_log: Some(console_log),
            exit,
            socket: Some(socket),
            control: Arc::new(Control::new(Some(lock))),
            starter: None,
            log: None,
            has_run: false,
        })
    }

    /// Makes the file for Coracle's own messages.
    pub fn make_message_log(&self) -> Result<File, Error> {
        let path = format!("{}/coracle.log", self.new);
        let options = &mut fs::OpenOptions::new();
        let file = options.read(true).append(true).create_new(true);
        file.open(self.place.inner(&path))
            .map_err(|source| self.place.error("make files in", source))
    }

    /// The other end of the pipe learns the guest's name, and later when its init runs: a line each.
    pub fn tell_starter(&mut self, starter: PipeWriter) {
        self.starter = Some(Arc::new(starter));
    }

    /// Whether the guest runs in the background.
    pub fn is_detached(&self) -> bool {
        self.starter.is_some()
    }

    /// Gives the directory the guest's name. From here on it is a guest that runs. Called by the process that runs it, when
    /// everything is open that it needs.
    pub fn publish(&mut self) -> Result<(), Error> {
        // The socket says who listens: the process that made this call last.
        // SAFETY: a system call without pointers.
        let listen = |socket: &UnixListener| unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) };
        if self.socket.as_ref().map(listen) == Some(-1) {
            return Err(self.place.error("listen in", io::Error::last_os_error()));
        }
        for _ in 0..TRIES {
            let name = match &self.wanted {
                Some(name) => name.clone(),
                None => Name::made_up(random() as u32),
            };
            // The directory of a guest is never empty, and this replaces none that is not.
            match fs::rename(self.place.inner(&self.new), self.place.inner(name.as_str())) {
                Ok(()) => {
                    if let Some(mut starter) = self.starter.as_deref() {
                        // Nobody may be there any more.
                        let _ = writeln!(starter, "{name}");
                    }
                    self.name = Some(name);
                    return Ok(());
                }
                Err(error) if is_taken(&error) => match self.place.find(&name) {
                    Ok(guest) if self.wanted.is_some() => {
                        return Err(Error::taken(&name, guest.is_running()));
                    }
                    // Nothing was left of it, or another name is made up.
                    _ => continue,
                },
                Err(error) => return Err(self.place.error("rename a directory in", error)),
            }
        }
        let error = io::Error::other("no name was free");
        Err(self.place.error("name a guest in", error))
    }

    /// The name, once the directory has it.
    pub fn name(&self) -> Option<&Name> {
        self.name.as_ref()
    }

    /// Starts to answer other commands, also those that attach to `console`. Where there is a machine, it is to be told to the
    /// result of [`Own::control`].
    pub fn serve(&mut self, console: &Console) -> io::Result<()> {
        match self.socket.take() {
            Some(socket) => control::serve(socket, self.control.clone(), console.clone()),
            None => Ok(()),
        }
    }

    /// What other commands ask is done with this machine. It has the guest's lock until the end of the process.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Starts to write what `console` prints to the log. Whoever waits for the guest's start learns from there that init runs.
    pub fn keep_log(&mut self, console: &Console, command_line: &str) -> io::Result<()> {
        let tell = self.starts();
        self.keep(console, Handover::of(command_line), tell)
    }

    /// The same for the output of a program, of which the log does not show when it starts.
    pub fn keep_log_of_program(&mut self, output: &Console) -> io::Result<()> {
        self.keep(output, Handover::default(), None::<fn()>)
    }

    /// What tells whoever waits for the guest's start that it has come so far.
    pub fn starts(&self) -> Option<impl FnOnce() + Send + use<>> {
        let starter = self.starter.clone();
        // Nobody may be there any more.
        starter.map(|starter| move || drop(writeln!(&*starter)))
    }

    fn keep(
        &mut self,
        console: &Console,
        handover: Handover,
        tell: Option<impl FnOnce() + Send + 'static>,
    ) -> io::Result<()> {
        if let Some([file, times]) = self.console_log.take() {
            self.log = Some(console_log::keep(console, file, times, handover, tell)?);
        }
        Ok(())
    }

    /// Writes down that the guest runs. One that never did leaves nothing behind.
    pub fn note_that_it_runs(&mut self) {
        self.has_run = true;
        if let Err(error) = record::write_runs(&mut self.exit) {
            log::warn!("cannot write down that the guest runs: {error}");
        }
    }

    /// Writes down how the guest ended, after the last of what `console` printed.
    pub fn end(mut self, console: &Console, exit_code: u8, explanation: Option<String>) {
        console.end();
        if let Some(log) = self.log.take() {
            // An error is a panic, which has been reported.
            let _ = log.join();
        }
        let slow = self.control.wait_for_attached(LAST_OUTPUT);
        if slow > 0 {
            log::warn!(
                "{slow} of the attached terminals did not take the last of the output (coracle logs prints it)"
            );
        }
        if self.name.is_none() {
            // It fails only if somebody else was faster.
            let _ = fs::remove_dir_all(self.place.inner(&self.new));
            return;
        }
        let ended = Ended {
            ended: now(),
            exit_code,
            ran: self.has_run,
            explanation,
        };
        if let Err(error) = record::write(&mut self.exit, &ended) {
            log::warn!("cannot write down how the guest ended: {error}");
        }
    }
}

/// Makes a directory with a lock that is taken. Returns its name, the directory and the lock.
fn make_folder(place: &Place) -> io::Result<(String, Folder, File)> {
    for _ in 0..TRIES {
        let name = format!("{NEW}{:016x}", random());
        let path = place.inner(&name);
        DirBuilder::new().mode(0o700).create(&path)?;
        let make = || -> io::Result<_> {
            let folder = Folder::open(&path)?;
            folder.keep_from_cleaners()?;
            let lock = folder.make("lock")?;
            let is_ours = lock::take(&lock)? && lock.metadata()?.nlink() > 0;
            Ok(is_ours.then_some((folder, lock)))
        };
        match make() {
            Ok(Some((folder, lock))) => return Ok((name, folder, lock)),
            // Another process took it for one that was left behind, and removed it.
            Ok(None) => (),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("others remove it again and again"))
}
