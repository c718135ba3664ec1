//! The clients of a cluster. They use any node, and move to the others when a node dies.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Clients {
    nodes: Vec<SocketAddr>,
    /// Idle connections to each node.
    idle: Vec<Mutex<Vec<TcpStream>>>,
    dead: AtomicUsize,
}

/// The outcome of a request.
pub enum Outcome {
    /// Time to the first byte of the body, from the first attempt.
    Whole {
        first_byte: Duration,
        tries: u32,
    },
    Failed,
}

impl Clients {
    pub fn new(nodes: Vec<SocketAddr>) -> Self {
        let idle = nodes.iter().map(|_| Mutex::default()).collect();
        Self { nodes, idle, dead: AtomicUsize::new(usize::MAX) }
    }

    /// Sends no request to `node` from now on.
    pub fn lose(&self, node: usize) {
        self.dead.store(node, Ordering::Relaxed);
    }

    /// Opens connections to every node, so that none is opened during a measurement.
    pub async fn connect(&self, count: usize) {
        for (address, idle) in self.nodes.iter().zip(&self.idle) {
            for _ in 0..count {
                let stream = connect(*address).await.unwrap();
                idle.lock().unwrap().push(stream);
            }
        }
    }

    /// Requests a body of `size` from the node that `choice` selects. A request that breaks off at a
    /// node that has died is retried at another one; any other error is a failure.
    pub async fn get(&self, choice: usize, path: &str, size: usize) -> Outcome {
        let began = Instant::now();
        let mut tries = 1;
        loop {
            let node = self.alive(choice);
            match tokio::time::timeout(PATIENCE, self.ask(node, path, size)).await {
                Ok(Ok(at)) => return Outcome::Whole { first_byte: at - began, tries },
                Ok(Err(_)) if self.alive(choice) != node => tries += 1,
                _ => return Outcome::Failed,
            }
        }
    }

    fn alive(&self, choice: usize) -> usize {
        let count = self.nodes.len();
        let (node, dead) = (choice % count, self.dead.load(Ordering::Relaxed));
        // Another part of the choice, so that both survivors get the same share.
        if node == dead { (dead + 1 + choice / count % (count - 1)) % count } else { node }
    }

    /// Sends a request, and returns the time of the first byte of the body.
    async fn ask(&self, node: usize, path: &str, size: usize) -> Result<Instant> {
        let idle = self.idle[node].lock().unwrap().pop();
        let mut stream = match idle {
            Some(stream) => stream,
            None => connect(self.nodes[node]).await?,
        };
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n").as_bytes()).await?;
        let first_byte = read(&mut stream, size).await?;
        self.idle[node].lock().unwrap().push(stream);
        Ok(first_byte)
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn read(stream: &mut TcpStream, size: usize) -> Result<Instant> {
    let mut buffer = vec![0; 64 * 1024];
    let (mut filled, mut body) = (0, None);
    let mut first_byte = None;
    loop {
        let read = stream.read(&mut buffer[if body.is_some() { 0 } else { filled }..]).await?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        if body.is_none() {
            body = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n").map(|end| end + 4);
            if body.is_some() && !buffer.starts_with(b"HTTP/1.1 200") {
                return Err(Error::other("not a complete 200 response"));
            }
        }
        let Some(body) = body else { continue };
        if filled > body && first_byte.is_none() {
            first_byte = Some(Instant::now());
        }
        match first_byte {
            Some(first_byte) if filled == body + size => return Ok(first_byte),
            // Reading must not delay the first byte of another client.
            _ => tokio::task::yield_now().await,
        }
    }
}
