//! A client with a constant rate, which wrk does not have, and a plain client for warming and
//! checking.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use super::load::output;

/// Returns the median and the 99th percentile in milliseconds at a rate that does not depend on the
/// responses. The client is a process of its own, on the second processor.
pub fn paced(address: SocketAddr, path: &str, size: usize, pace: Pace) -> (f64, f64) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--pace", &address.to_string(), path, &size.to_string()]);
    command.args([pace.rate.to_string(), pace.time.as_secs_f64().to_string()]);
    let text = output(&command);
    let figures: Vec<f64> = text.split_whitespace().filter_map(|figure| figure.parse().ok()).collect();
    assert!(figures.len() == 2, "the paced client at {address}{path}: {text}");
    (figures[0], figures[1])
}

#[derive(Clone, Copy)]
pub struct Pace {
    /// Requests per second.
    pub rate: f64,
    pub time: Duration,
}

/// Number of connections of the paced client.
const PACED: u32 = 32;

/// Runs the process of [`paced`], and prints its two figures.
pub fn pace(arguments: &[String]) {
    let [address, path, size, rate, seconds] = arguments else { panic!("expected ADDRESS PATH SIZE RATE SECONDS") };
    let (address, size) = (address.parse().unwrap(), size.parse().unwrap());
    let pace = Pace { rate: rate.parse().unwrap(), time: Duration::from_secs_f64(seconds.parse().unwrap()) };
    let began = Instant::now() + Duration::from_millis(50);
    let mut took: Vec<Duration> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..PACED)
            .map(|client| scope.spawn(move || ask_at_times(address, path, size, pace, (began, client))))
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    took.sort();
    let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)].as_secs_f64() * 1e3;
    println!("{} {}", at(50), at(99));
}

/// Runs one of the clients, which take turns. A request that is late because of the response before
/// it counts from its scheduled time. A request that is late because this thread woke late counts
/// from the time when it was sent: that is not the server's fault.
fn ask_at_times(
    address: SocketAddr,
    path: &str,
    size: usize,
    pace: Pace,
    (began, number): (Instant, u32),
) -> Vec<Duration> {
    let mut client = Client::connect(address);
    let mut took = Vec::new();
    for turn in 0.. {
        let after = f64::from(turn * PACED + number) / pace.rate;
        if after >= pace.time.as_secs_f64() {
            break;
        }
        let due = began + Duration::from_secs_f64(after);
        let now = Instant::now();
        let counted = if now < due {
            std::thread::sleep(due - now);
            Instant::now()
        } else {
            due
        };
        client.get(path, size);
        took.push(counted.elapsed());
    }
    took
}

/// A connection that is kept open.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: vec![0; 256 * 1024] }
    }

    /// Returns the connection, to be kept open.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Requests a body of `size` and reads all of it.
    pub fn get(&mut self, path: &str, size: usize) {
        self.stream
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: bench\r\naccept-encoding: gzip\r\n\r\n").as_bytes())
            .unwrap();
        let mut filled = 0;
        let end = loop {
            filled += self.read(filled);
            if let Some(end) = self.buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]);
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        let mut left = size - (filled - end - 4);
        while left > 0 {
            left -= self.read(0);
        }
    }

    fn read(&mut self, at: usize) -> usize {
        let read = self.stream.read(&mut self.buffer[at..]).unwrap();
        assert!(read > 0, "{:?} closed the connection", self.stream.peer_addr());
        read
    }
}

/// Returns a whole response as text.
pub fn text(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
