//! A service of the guest that Coracle itself calls. It tells that it listens by a call of its own to a port of the host, so that
//! whoever wants it before need not try again and again.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How many sockets may wait until it listens. When one more comes, the oldest is closed.
const WAITING_MAX: usize = 256;

/// Where a service listens, and how it tells that.
#[derive(Debug, Clone, Copy)]
pub struct ServicePorts {
    /// The port of the guest at which it listens.
    pub port: u32,
    /// The port of the host that it calls when it does.
    pub ready_port: u32,
}

#[derive(Default)]
pub struct Service {
    /// None as long as none is expected.
    ports: Option<ServicePorts>,
    is_ready: Arc<AtomicBool>,
    waiting: VecDeque<UnixStream>,
}

impl Service {
    /// `is_ready` says to others whether the service listens.
    pub fn new(is_ready: Arc<AtomicBool>) -> Self {
        Self {
            is_ready,
            ..Self::default()
        }
    }

    pub fn expect(&mut self, ports: ServicePorts) {
        self.ports = Some(ports);
    }

    /// Takes a socket for the service. Gives it back with the port to call, if the service listens.
    pub fn take(&mut self, host: UnixStream) -> Option<(u32, UnixStream)> {
        let ports = self.ports?;
        if self.is_ready.load(Ordering::Relaxed) {
            return Some((ports.port, host));
        }
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(host);
        None
    }

    /// Whether a call of the guest to this port of the host is the service's. If so, gives the port to call, and the sockets that
    /// have waited.
    pub fn tells(&mut self, host_port: u32) -> Option<(u32, VecDeque<UnixStream>)> {
        let ports = self.ports.filter(|ports| ports.ready_port == host_port)?;
        self.is_ready.store(true, Ordering::Relaxed);
        Some((ports.port, std::mem::take(&mut self.waiting)))
    }

    /// The guest has gone. Those that wait do so for the next one.
    pub fn forget_guest(&mut self) {
        self.is_ready.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: ServicePorts = ServicePorts {
        port: 5,
        ready_port: 6,
    };

    fn socket() -> UnixStream {
        UnixStream::pair().unwrap().0
    }

    #[test]
    fn sockets_wait_until_the_service_tells_that_it_listens() {
        let is_ready = Arc::<AtomicBool>::default();
        let mut service = Service::new(is_ready.clone());
        assert!(service.tells(6).is_none(), "none is expected");
        service.expect(PORTS);
        assert!(service.take(socket()).is_none());
        assert!(service.tells(5).is_none(), "another port");
        assert!(!is_ready.load(Ordering::Relaxed));
        let (port, waiting) = service.tells(6).unwrap();
        assert_eq!((port, waiting.len()), (5, 1));
        assert!(is_ready.load(Ordering::Relaxed));
        assert_eq!(service.take(socket()).unwrap().0, 5);
        service.forget_guest();
        assert!(
            service.take(socket()).is_none(),
            "the next guest has to tell it anew"
        );
        assert!(!is_ready.load(Ordering::Relaxed));
    }

    #[test]
    fn a_service_that_never_listens_holds_a_bounded_number_of_sockets() {
        let mut service = Service::default();
        service.expect(PORTS);
        let (oldest, host) = UnixStream::pair().unwrap();
        service.take(host);
        for _ in 0..WAITING_MAX {
            service.take(oldest.try_clone().unwrap());
        }
        assert_eq!(service.waiting.len(), WAITING_MAX);
        let mut byte = [0];
        assert_eq!(std::io::Read::read(&mut &oldest, &mut byte).unwrap(), 0);
    }
}
