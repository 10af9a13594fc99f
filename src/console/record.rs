//! A recording of a console, as an asciicast of version 2 (docs.asciinema.org/manual/asciicast/v2): a line of JSON about the
//! terminal, and then one for each piece of output and each new size.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime};

use serde_json::json;

use super::signals::with_all_blocked;
use super::stderr::tell;
use super::stream::{Console, Pace, Read, Reader, Waker};

/// How many recordings of one guest can be in a directory.
const RECORDINGS: u32 = 999;

/// A recording that goes on. Dropping it ends it.
pub struct Recording {
    name: String,
    orders: Arc<Mutex<Orders>>,
    waker: Waker,
    thread: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Default)]
struct Orders {
    /// Rows and columns that the terminal has now.
    size: Option<(u16, u16)>,
    ends: bool,
}

impl Recording {
    /// Begins to record what `console` prints from now on, in a new file in the current directory that is named after `guest`.
    pub fn start(console: &Console, guest: &str, size: (u16, u16)) -> io::Result<Self> {
        let (name, file) = make_file(guest)?;
        let mut cast = Cast::new(file, size)?;
        let reader = console.attach_to_what_comes(Pace::GuestWaits);
        let waker = reader.waker();
        let orders = Arc::<Mutex<Orders>>::default();
        let record = {
            let (name, orders) = (name.clone(), orders.clone());
            move || {
                let recorded = record(reader, &mut cast, &orders);
                if let Err(error) = &recorded {
                    tell(format_args!("\ncoracle: the recording {name} ends here: {error}"));
                }
                recorded
            }
        };
        let thread = with_all_blocked(|| thread::Builder::new().name("recording".into()).spawn(record))?;
        Ok(Self {
            name,
            orders,
            waker,
            thread: Some(thread),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The terminal has this size now.
    pub fn resize(&self, size: (u16, u16)) {
        self.order(|orders| orders.size = Some(size));
    }

    /// Whether it goes on. It does not if it could not be written.
    pub fn goes_on(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    fn order(&self, order: impl FnOnce(&mut Orders)) {
        order(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner));
        self.waker.wake();
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.order(|orders| orders.ends = true);
        if let Some(thread) = self.thread.take()
            // An error has been told, and a panic reported.
            && matches!(thread.join(), Ok(Ok(())))
        {
            tell(format_args!("\ncoracle: the recording is in {}", self.name));
        }
    }
}

fn record(mut reader: Reader, cast: &mut Cast<impl Write>, orders: &Mutex<Orders>) -> io::Result<()> {
    let (mut bytes, mut left) = (Vec::new(), u64::MAX);
    while left > 0 {
        match reader.read(&mut bytes) {
            Read::Bytes { .. } => {
                cast.output(&bytes)?;
                left = left.saturating_sub(bytes.len() as u64);
            }
            Read::Ended => return Ok(()),
            Read::Woken => {
                let mut orders = orders.lock().unwrap_or_else(PoisonError::into_inner);
                let size = orders.size.take();
                if orders.ends {
                    // What has been printed until now belongs to the recording.
                    left = left.min(reader.unread());
                }
                drop(orders);
                if let Some(size) = size {
                    cast.resize(size)?;
                }
            }
        }
    }
    Ok(())
}

/// Makes the first file of these names that is not there yet.
fn make_file(guest: &str) -> io::Result<(String, File)> {
    for number in 1..=RECORDINGS {
        let name = format!("{guest}-{number}.cast");
        match File::create_new(&name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (),
            made => return made.map(|file| (name, file)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Writes an asciicast.
struct Cast<W> {
    to: W,
    began: Instant,
    /// The start of a character.
    part: Vec<u8>,
}

impl<W: Write> Cast<W> {
    fn new(mut to: W, (rows, columns): (u16, u16)) -> io::Result<Self> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let head = json!({
            "version": 2,
            "width": columns,
            "height": rows,
            "timestamp": now.unwrap_or_default().as_secs(),
        });
        writeln!(to, "{head}")?;
        Ok(Self {
            to,
            began: Instant::now(),
            part: Vec::new(),
        })
    }

    fn output(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.part.extend(bytes);
        let whole = whole_characters(&self.part);
        let text = String::from_utf8_lossy(&self.part[..whole]).into_owned();
        self.part.drain(..whole);
        match text.is_empty() {
            true => Ok(()),
            false => self.event("o", &text),
        }
    }

    fn resize(&mut self, (rows, columns): (u16, u16)) -> io::Result<()> {
        self.event("r", &format!("{columns}x{rows}"))
    }

    fn event(&mut self, kind: &str, data: &str) -> io::Result<()> {
        let seconds = self.began.elapsed().as_micros() as f64 / 1e6;
        writeln!(self.to, "{}", json!([seconds, kind, data]))
    }
}

/// How many of these bytes are before a character of UTF-8 that is not whole yet.
fn whole_characters(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    let begin = (tail..bytes.len()).find(|&begin| match std::str::from_utf8(&bytes[begin..]) {
        Ok(_) => false,
        Err(error) => error.valid_up_to() == 0 && error.error_len().is_none(),
    });
    begin.unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn lines(written: &[u8]) -> Vec<Value> {
        let text = std::str::from_utf8(written).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_cast_has_the_size_the_output_and_later_sizes_in_order() {
        let mut written = Vec::new();
        let mut cast = Cast::new(&mut written, (24, 80)).unwrap();
        cast.output(b"\x1b[1mone\"\r\n").unwrap();
        cast.resize((40, 120)).unwrap();
        cast.output(b"two").unwrap();
        let lines = lines(&written);
        assert_eq!(
            (&lines[0]["version"], &lines[0]["width"], &lines[0]["height"]),
            (&json!(2), &json!(80), &json!(24))
        );
        let events: Vec<_> = lines[1..]
            .iter()
            .map(|line| (line[1].clone(), line[2].clone()))
            .collect();
        assert_eq!(
            events,
            [("o", "\x1b[1mone\"\r\n"), ("r", "120x40"), ("o", "two")]
                .map(|(kind, data)| (json!(kind), json!(data)))
        );
        let times: Vec<_> = lines[1..].iter().map(|line| line[0].as_f64().unwrap()).collect();
        assert!(times.is_sorted() && times[0] >= 0.0 && times[2] < 60.0);
    }

    #[test]
    fn what_was_printed_before_the_end_was_ordered_is_recorded() {
        let console = Console::default();
        let reader = console.attach_to_what_comes(Pace::GuestWaits);
        b"shown".iter().for_each(|&byte| console.sink().put(byte));
        console.sink().pause();
        reader.waker().wake();
        let orders = Mutex::new(Orders {
            size: None,
            ends: true,
        });
        let mut written = Vec::new();
        record(reader, &mut Cast::new(&mut written, (24, 80)).unwrap(), &orders).unwrap();
        assert_eq!(lines(&written)[1][2], json!("shown"));
    }

    proptest! {
        #[test]
        fn text_is_recorded_whole_however_it_is_cut(text in "[a\u{e9}\u{20ac}\u{1f6f6}]{0,20}", cut in 0usize..40) {
            let mut written = Vec::new();
            let mut cast = Cast::new(&mut written, (24, 80)).unwrap();
            let (one, other) = text.as_bytes().split_at(cut.min(text.len()));
            cast.output(one).unwrap();
            cast.output(other).unwrap();
            let recorded: String = lines(&written)[1..].iter().map(|line| line[2].as_str().unwrap().to_owned()).collect();
            prop_assert_eq!(recorded, text);
        }

        #[test]
        fn any_bytes_are_lines_of_json(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut written = Vec::new();
            let mut cast = Cast::new(&mut written, (24, 80)).unwrap();
            cast.output(&bytes).unwrap();
            prop_assert!(cast.part.len() < 4);
            lines(&written);
        }
    }
}
