//! The device's part on the host: its listener, and the thread that serves the guest. It outlives the devices that drive it, so
//! that a guest that reboots needs nothing new of the host.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::connector::Connector;
use super::listener::listen;
use super::muxer::{Command, Muxer};
use super::queues::{EVENT, QueueError, Queues, RECEIVE, TRANSMIT};
use super::service::{Service, ServicePorts};
use crate::config::{self, Confine, User};
use crate::confine::filter;
use crate::threads;
use crate::virtio::buffers::Buffers;
use crate::virtio::log_limit::LogLimit;
use crate::virtio::traffic::Traffic;
use crate::virtio::{ActiveQueue, QueuePosition, VirtioInterrupt};

/// In bytes. The thread's calls are not nested deeply.
const STACK_SIZE: usize = 128 << 10;
/// So many commands may wait until the guest's driver runs.
const COMMANDS_MAX: usize = 512;

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot make the socket {path:?} for --vsock: {source}{hint}")]
    Socket {
        path: PathBuf,
        source: io::Error,
        hint: &'static str,
    },
    #[error("cannot start the process that connects the guest of --vsock to programs of this host: {0}")]
    Connector(#[source] io::Error),
    #[error("cannot make the socket device of --vsock: {0}")]
    Device(#[source] io::Error),
    #[error(
        "this host cannot confine the process that connects the guest of --vsock to its programs in every way, as \
         --confine require asks:\n{0}  try: --confine auto, which runs with less; coracle doctor shows all"
    )]
    NotConfined(String),
}

/// What becomes of connections that were there before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Before {
    /// The driver knows of none.
    #[default]
    Forgotten,
    /// They go on.
    GoesOn,
    /// The driver still believes in them, and has to be told.
    Lost,
}

/// What the thread works with from the driver's DRIVER_OK to the device's reset or a pause.
pub struct Job {
    pub memory: Arc<GuestMemoryMmap>,
    pub queues: Vec<ActiveQueue>,
    pub interrupt: VirtioInterrupt,
    pub before: Before,
}

/// Tells the thread to leave its queues.
#[derive(Default)]
struct Stop {
    is_requested: AtomicBool,
    /// Whether connections go on with the next job.
    keeps: AtomicBool,
}

/// The device's part on the host.
pub struct Backend {
    cid: u32,
    pub(super) log: Arc<LogLimit>,
    /// Wakes the thread.
    wake: Arc<EventFd>,
    commands: SyncSender<Command>,
    /// Whether a service is expected, and whether it listens.
    expects_service: AtomicBool,
    has_service: Arc<AtomicBool>,
    traffic: Arc<Traffic>,
    worker: Mutex<Worker>,
}

pub(super) struct Worker {
    /// None once the thread has it.
    pub muxer: Option<Muxer>,
    thread: Option<Thread>,
    /// The last job, until its end has been waited for.
    current: Option<Arc<Stop>>,
}

struct Thread {
    /// Dropping this ends the thread.
    jobs: Sender<(Job, Arc<Stop>)>,
    /// Receives a message each time that the thread has finished a job and dropped it: how far it came.
    finished: Receiver<Vec<QueuePosition>>,
    handle: JoinHandle<()>,
}

impl Backend {
    /// Makes the socket of `vsock`, if it has one, and the process that connects to programs that the guest calls, which becomes
    /// one of `user` and is confined as `confine` says. To be called while there is no other thread.
    pub fn open(vsock: &config::Vsock, user: Option<User>, confine: Confine) -> Result<Self, OpenError> {
        let (listener, connector) = match vsock.path.as_deref() {
            Some(path) => {
                let listener = listen(path)?;
                let connector = Connector::start(path, &listener, user, confine)?;
                (Some(listener), Some(connector))
            }
            None => (None, None),
        };
        Self::new(vsock.cid, listener, connector).map_err(OpenError::Device)
    }

    pub(super) fn new(
        cid: u32,
        listener: Option<UnixListener>,
        connector: Option<Connector>,
    ) -> io::Result<Self> {
        // What is written to it is never read: the thread is woken by each write, and the count would overflow after centuries.
        let wake = Arc::new(EventFd::new(libc::EFD_CLOEXEC | EFD_NONBLOCK)?);
        let log = Arc::<LogLimit>::default();
        let (commands, given) = mpsc::sync_channel(COMMANDS_MAX);
        let has_service = Arc::<AtomicBool>::default();
        let service = Service::new(has_service.clone());
        let muxer = Muxer::new(cid, listener, connector, service, given, &wake, log.clone())?;
        Ok(Self {
            cid,
            log,
            wake,
            commands,
            expects_service: AtomicBool::new(false),
            has_service,
            traffic: muxer.traffic(),
            worker: Mutex::new(Worker {
                muxer: Some(muxer),
                thread: None,
                current: None,
            }),
        })
    }

    /// The guest's address.
    pub fn cid(&self) -> u32 {
        self.cid
    }

    /// What the guest has received and sent so far.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Calls `port` of the guest. `host` becomes the host's end of the connection, and no byte of it is read before the guest
    /// has answered. If the guest refuses, or ends, `host` is closed. A call that is made while no driver runs waits for one.
    pub fn dial(&self, port: u32, host: UnixStream) -> io::Result<()> {
        self.command(Command::Dial(port, host))
    }

    /// Has the next call of the guest to `port` of the host connected to `host`. Several sockets may wait for calls to one
    /// port. They outlast drivers that come and go.
    pub fn answer(&self, port: u32, host: UnixStream) -> io::Result<()> {
        self.command(Command::Answer(port, host))
    }

    /// There will be a service in the guest, at these ports. Each boot's driver finds it not yet listening.
    pub fn expect_service(&self, ports: ServicePorts) -> io::Result<()> {
        self.expects_service.store(true, Ordering::Relaxed);
        self.command(Command::Expect(ports))
    }

    /// Whether there is to be a service.
    pub fn expects_service(&self) -> bool {
        self.expects_service.load(Ordering::Relaxed)
    }

    /// Whether it listens, as far as the guest has told.
    pub fn has_service(&self) -> bool {
        self.has_service.load(Ordering::Relaxed)
    }

    /// Calls the service as [`Backend::dial`] does, once it listens.
    pub fn dial_service(&self, host: UnixStream) -> io::Result<()> {
        self.command(Command::DialService(host))
    }

    fn command(&self, command: Command) -> io::Result<()> {
        let sent = self.commands.try_send(command);
        sent.map_err(|error| match error {
            TrySendError::Full(_) => io::Error::other("too many wait for the guest's driver already"),
            TrySendError::Disconnected(_) => io::Error::other("the socket device's thread has ended"),
        })?;
        self.wake.write(1)
    }

    /// Starts the thread, unless it runs.
    pub(super) fn start(&self) -> io::Result<()> {
        let mut worker = self.lock();
        let Some(muxer) = worker.muxer.take() else {
            return Ok(());
        };
        let (jobs, given) = mpsc::channel();
        let (finish, finished) = mpsc::channel();
        let handle = thread::Builder::new()
            .name("vsock".into())
            .stack_size(STACK_SIZE)
            .spawn(move || {
                filter::narrow(filter::Kind::Vsock);
                work(muxer, &given, &finish);
            })
            .map_err(threads::not_started)?;
        worker.thread = Some(Thread {
            jobs,
            finished,
            handle,
        });
        Ok(())
    }

    /// Has the thread serve the queues of `job` until [`Backend::leave_queues`].
    pub(super) fn serve(&self, job: Job) -> io::Result<()> {
        self.leave_queues(false);
        let mut worker = self.lock();
        let stop = Arc::<Stop>::default();
        let jobs = worker.thread.as_ref().map(|thread| &thread.jobs);
        let given = jobs.and_then(|jobs| jobs.send((job, stop.clone())).ok());
        given.ok_or_else(|| io::Error::other("the socket device's thread has ended"))?;
        worker.current = Some(stop);
        self.wake.write(1)
    }

    /// Takes the queues away from the thread. Returns how far each was served, unless the driver broke one. Connections go on
    /// with the next job if the device `keeps` them, and end otherwise.
    pub(super) fn leave_queues(&self, keeps: bool) -> Vec<QueuePosition> {
        let mut worker = self.lock();
        let Some(stop) = worker.current.take() else {
            return Vec::new();
        };
        stop.keeps.store(keeps, Ordering::SeqCst);
        stop.is_requested.store(true, Ordering::SeqCst);
        if let Err(error) = self.wake.write(1) {
            log::error!("cannot wake the socket device's thread to stop it: {error}");
        }
        let finished = worker.thread.as_ref().map(|thread| thread.finished.recv());
        match finished {
            Some(Ok(positions)) => positions,
            _ => {
                log::error!("the socket device's thread panicked");
                Vec::new()
            }
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Worker> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.leave_queues(false);
        let Some(Thread { jobs, handle, .. }) = self.lock().thread.take() else {
            return;
        };
        drop(jobs);
        if let Err(error) = self.wake.write(1) {
            return log::error!("cannot wake the socket device's thread to end it: {error}");
        }
        if handle.join().is_err() {
            log::error!("the socket device's thread panicked");
        }
    }
}

/// The thread: it carries out jobs, and passes on what guests have sent before, until there can be no more jobs.
fn work(mut muxer: Muxer, jobs: &Receiver<(Job, Arc<Stop>)>, finish: &Sender<Vec<QueuePosition>>) {
    loop {
        match jobs.try_recv() {
            Ok((job, stop)) => {
                let positions = carry_out(&mut muxer, &job, &stop);
                // The job is dropped before its end is announced, because guest memory may be unmapped after that.
                drop(job);
                if finish.send(positions).is_err() {
                    break;
                }
            }
            Err(TryRecvError::Empty) => {
                if let Err(error) = muxer.wait(false) {
                    log::error!("the socket device's thread cannot wait: {error}");
                    break;
                }
            }
            Err(TryRecvError::Disconnected) => break,
        }
    }
}

/// Serves the queues of `job` until `stop` is requested. Returns how far, if the driver has not broken one.
fn carry_out(muxer: &mut Muxer, job: &Job, stop: &Stop) -> Vec<QueuePosition> {
    match job.before {
        Before::GoesOn => (),
        Before::Forgotten => muxer.forget_guest(),
        Before::Lost => {
            muxer.forget_guest();
            muxer.owes_transport_reset = true;
        }
    }
    let watched = job
        .queues
        .iter()
        .try_for_each(|queue| muxer.watch_queue(&queue.notifier));
    let served = watched.map_err(ServeError::Wait).and_then(|()| {
        let mut queues = Queues::new(&job.memory, &job.queues, &job.interrupt)?;
        let served = serve(muxer, &mut queues, stop);
        // The driver is notified also of the packets before a broken chain.
        queues.notify_used();
        served.map(|()| queues.positions())
    });
    for queue in &job.queues {
        muxer.forget_queue(&queue.notifier);
    }
    if !stop.keeps.load(Ordering::SeqCst) {
        muxer.forget_guest();
    }
    served.unwrap_or_else(|error| {
        muxer.warn(format_args!("the driver must reset it: {error}"));
        job.interrupt.need_reset();
        Vec::new()
    })
}

/// Why the thread cannot go on with a driver's queues.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("cannot wait for events: {0}")]
    Wait(io::Error),
}

fn serve(muxer: &mut Muxer, queues: &mut Queues, stop: &Stop) -> Result<(), ServeError> {
    let mut data = Buffers::default();
    while !stop.is_requested.load(Ordering::SeqCst) {
        let has_work = pass(muxer, queues, &mut data)?;
        muxer.wait(has_work).map_err(ServeError::Wait)?;
    }
    Ok(())
}

/// Does some of the work that there is. Returns whether there is more that waits for no event. `data` is for its own use.
pub fn pass<'m>(
    muxer: &mut Muxer,
    queues: &mut Queues<'m>,
    data: &mut Buffers<'m>,
) -> Result<bool, QueueError> {
    muxer.take_commands();
    muxer.accept();
    queues.ignore_packets();
    queues.ignore_buffers();
    let has_packets = muxer.take_packets(queues, data)?;
    let lacks_buffers = muxer.send_packets(queues)?;
    queues.notify_used();
    Ok(has_packets
        || queues.want_notifications(TRANSMIT)
        || match lacks_buffers {
            true => queues.want_notifications(RECEIVE),
            false => muxer.has_work(),
        }
        || muxer.owes_transport_reset && queues.want_notifications(EVENT))
}
