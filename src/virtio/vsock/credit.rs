//! The credit of a connection: neither side sends more than the other can hold (virtio 1.2 section 5.10.6.3).

use super::packet::Header;

/// What both sides may still send. All counts are of bytes since the connection's beginning, modulo 2^32.
#[derive(Debug)]
pub struct Credit {
    /// How many bytes this side holds for the guest.
    window: u32,
    /// What the guest has sent, and how much of that was passed on.
    received: u32,
    forwarded: u32,
    /// `forwarded` as the guest last heard of it.
    announced: u32,
    /// What was sent to the guest.
    sent: u32,
    /// What the guest last said of itself.
    peer_window: u32,
    peer_forwarded: u32,
}

/// The guest has sent more than this side said that it can hold.
#[derive(Debug, PartialEq, Eq)]
pub struct Overrun;

impl Credit {
    /// The credit of a new connection for which this side holds `window` bytes. The guest has granted nothing yet.
    pub fn new(window: u32) -> Self {
        Self {
            window,
            received: 0,
            forwarded: 0,
            announced: 0,
            sent: 0,
            peer_window: 0,
            peer_forwarded: 0,
        }
    }

    pub fn window(&self) -> u32 {
        self.window
    }

    /// Takes over what a packet of the guest says of the guest.
    #[inline]
    pub fn learn(&mut self, header: &Header) {
        self.peer_window = header.buf_alloc;
        self.peer_forwarded = header.fwd_cnt;
    }

    /// How many bytes may be sent to the guest. 0 if what the guest said makes no sense.
    #[inline]
    pub fn available(&self) -> u32 {
        let in_flight = self.sent.wrapping_sub(self.peer_forwarded);
        self.peer_window.saturating_sub(in_flight)
    }

    /// Notes that `count` bytes were sent, no more than are available.
    pub fn send(&mut self, count: u32) {
        self.sent = self.sent.wrapping_add(count);
    }

    /// Notes that the guest has sent `count` bytes. Fails if it was not allowed to.
    #[inline]
    pub fn receive(&mut self, count: u32) -> Result<(), Overrun> {
        let held = self.received.wrapping_sub(self.forwarded);
        match held.checked_add(count) {
            Some(held) if held <= self.window => {
                self.received = self.received.wrapping_add(count);
                Ok(())
            }
            _ => Err(Overrun),
        }
    }

    /// Notes that `count` of the bytes that were received are not held any more.
    pub fn forward(&mut self, count: u32) {
        self.forwarded = self.forwarded.wrapping_add(count);
    }

    /// Whether the guest should hear of what was passed on: it believes that it may send less than half of the window, and it may
    /// send more than it believes.
    #[inline]
    pub fn update_is_due(&self) -> bool {
        let believed = self.window - self.received.wrapping_sub(self.announced).min(self.window);
        believed < self.window.div_ceil(2) && self.forwarded != self.announced
    }

    /// Puts what the guest has to know into a packet for it.
    #[inline]
    pub fn tell(&self, header: &mut Header) {
        header.buf_alloc = self.window;
        header.fwd_cnt = self.forwarded;
    }

    /// Notes that the guest has been sent such a packet.
    #[inline]
    pub fn told(&mut self) {
        self.announced = self.forwarded;
    }
}

#[cfg(test)]
#[path = "credit_test.rs"]
mod tests;
