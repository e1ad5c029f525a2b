//! The connections of [`super::client`]: TCP with as few system calls a request as can be, since on
//! a connection that is open already they are most of what a request costs.
//!
//! `ureq`'s own connector writes head and body apart, sets the socket's timeouts anew for every
//! read and write, and takes three calls to look whether a connection still stands, before and
//! after each request. Here what is to be sent is gathered until the answer is awaited, the
//! timeouts of the socket stay as they are while they serve ([`Patience`]), and a look is one call.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, ShutdownHandle,
    Transport,
};

use crate::clock::monotonic;

/// How much is gathered before it is sent though no answer is awaited yet.
const GATHERED: usize = 32 << 10;
/// Below this a socket is told the very time that is left.
const FINEST: Duration = Duration::from_millis(1);

/// Opens connections, unless a proxy has given one already.
#[derive(Debug)]
pub(super) struct Tcp;

impl<In: Transport> Connector<In> for Tcp {
    type Out = Either<In, Wire>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        if let Some(tunnel) = chained {
            return Ok(Some(Either::A(tunnel)));
        }
        let stream = reach(&details.addrs, details.timeout)?;
        stream.set_nodelay(true)?;
        let stream = Arc::new(stream);
        let handle: Weak<dyn ShutdownHandle> = Arc::<TcpStream>::downgrade(&stream);
        (details.register_shutdown)(handle)?;
        let input = LazyBuffers::new(details.config.input_buffer_size(), 1);
        Ok(Some(Either::B(Wire {
            stream,
            reading: Patience::default(),
            writing: Patience::default(),
            buffers: Gathering {
                input,
                output: Vec::new(),
                waiting: 0,
            },
        })))
    }
}

/// Tries one address after the other; each but the last may take half of the time that is left.
fn reach(addresses: &[SocketAddr], timeout: NextTimeout) -> Result<TcpStream, ureq::Error> {
    let began = monotonic();
    let mut failure = ureq::Error::HostNotFound;
    for (index, address) in addresses.iter().enumerate() {
        let left = time_left(began, timeout)?;
        let is_last = index + 1 == addresses.len();
        let share = if is_last { left } else { left / 2 };
        failure = match TcpStream::connect_timeout(address, share.max(FINEST)) {
            Ok(stream) => return Ok(stream),
            Err(error) if is_too_late(&error) => ureq::Error::Timeout(timeout.reason),
            Err(error) if is_of_this_address(&error) => error.into(),
            Err(error) => return Err(error.into()),
        };
    }
    Err(failure)
}

/// The host's other addresses may do, such as that of version 4 where there is no version 6.
fn is_of_this_address(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::AddrNotAvailable
    )
}

/// What a socket says whose timeout has passed.
fn is_too_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// What is left of `timeout`, which counts from `began`: never nothing.
fn time_left(began: Instant, timeout: NextTimeout) -> Result<Duration, ureq::Error> {
    let passed = monotonic().saturating_duration_since(began);
    let left = timeout.after.saturating_sub(passed);
    if left.is_zero() {
        return Err(ureq::Error::Timeout(timeout.reason));
    }
    Ok(left)
}

/// The timeout of one direction of a socket. It need not be the time that is left, only not
/// longer: a call that comes back too early is made again. So it is a power of two of milliseconds
/// and stays while it fits, which for one request after another is always.
#[derive(Debug, Default)]
struct Patience(Option<Duration>);

impl Patience {
    /// What the socket is to be told now; `None`: what it knows serves.
    fn renewed(&mut self, left: Duration) -> Option<Duration> {
        if self
            .0
            .is_some_and(|known| known <= left && left / 4 <= known)
        {
            return None;
        }
        let coarse = match u64::try_from(left.as_millis())
            .unwrap_or(u64::MAX)
            .checked_ilog2()
        {
            Some(power) => Duration::from_millis(1 << power),
            None => left,
        };
        self.0 = Some(coarse);
        self.0
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Wire {
    /// Shared with what [`ureq::Agent::shutdown`] closes.
    stream: Arc<TcpStream>,
    reading: Patience,
    writing: Patience,
    buffers: Gathering,
}

impl Wire {
    fn send_gathered(&mut self, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let timeout = timeout.for_write();
        let began = monotonic();
        let mut sent = 0;
        let gathered = std::mem::take(&mut self.buffers.waiting);
        while sent < gathered {
            let left = time_left(began, timeout)?;
            if let Some(limit) = self.writing.renewed(left) {
                self.stream.set_write_timeout(Some(limit))?;
            }
            match (&*self.stream).write(&self.buffers.output[sent..gathered]) {
                Ok(0) => return Err(io::Error::from(ErrorKind::WriteZero).into()),
                Ok(count) => sent += count,
                Err(error) if is_too_late(&error) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.buffers.waiting += amount;
        if self.buffers.waiting < GATHERED {
            return Ok(());
        }
        self.send_gathered(timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.send_gathered(timeout)?;
        let timeout = timeout.for_read();
        let began = monotonic();
        loop {
            let left = time_left(began, timeout)?;
            if let Some(limit) = self.reading.renewed(left) {
                self.stream.set_read_timeout(Some(limit))?;
            }
            match (&*self.stream).read(self.buffers.input.input_append_buf()) {
                Ok(count) => {
                    self.buffers.input.input_appended(count);
                    return Ok(count > 0);
                }
                Err(error) if is_too_late(&error) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether it may carry a request: open and silent, since nobody has been asked anything.
    fn is_open(&mut self) -> bool {
        let look = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(recv(&*self.stream, &mut [0], look), Err(Errno::AGAIN))
    }
}

/// What has come in, and what is to go out and waits for more.
#[derive(Debug)]
struct Gathering {
    input: LazyBuffers,
    output: Vec<u8>,
    /// How much of `output`, from its beginning.
    waiting: usize,
}

impl Gathering {
    /// Behind what waits there is always room for [`GATHERED`] bytes.
    fn make_room(&mut self) {
        let wanted = self.waiting + GATHERED;
        if self.output.len() < wanted {
            self.output.resize(wanted, 0);
        }
    }
}

impl Buffers for Gathering {
    fn output(&mut self) -> &mut [u8] {
        self.make_room();
        &mut self.output[self.waiting..]
    }

    fn input(&self) -> &[u8] {
        self.input.input()
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        self.input.input_append_buf()
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        self.make_room();
        let (tmp, _) = self.input.tmp_and_output();
        (tmp, &mut self.output[self.waiting..])
    }

    fn input_appended(&mut self, amount: usize) {
        self.input.input_appended(amount);
    }

    fn input_consume(&mut self, amount: usize) {
        self.input.input_consume(amount);
    }

    fn can_use_input(&self) -> bool {
        self.input.can_use_input()
    }
}
