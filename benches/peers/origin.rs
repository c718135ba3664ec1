//! An origin in this process. It counts requests and delays responses. A name holds the length of
//! its body; a script has the content coding gzip, and varies by Accept-Encoding.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Makes the target of a body from a number and a length.
pub type Named = fn(u32, usize) -> String;

/// Returns the target of a body. Its last eight digits are the length.
pub fn path(id: u32, length: usize) -> String {
    format!("/asset-{id:08x}{length:08x}.bin")
}

/// Like [`path`], for a script.
pub fn script(id: u32, length: usize) -> String {
    path(id, length).replace(".bin", ".js")
}

pub fn is_script(path: &str) -> bool {
    path.rsplit_once('.').is_some_and(|(_, extension)| extension == "js")
}

fn target(head: &[u8]) -> &str {
    std::str::from_utf8(head).ok().and_then(|head| head.split(' ').nth(1)).unwrap_or_default()
}

fn length_in(target: &str) -> usize {
    let digits = target.rsplit_once('.').and_then(|(name, _)| name.get(name.len() - 8..));
    digits.and_then(|digits| usize::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

#[derive(Default)]
struct Shared {
    asked: AtomicU64,
    delay: AtomicU64,
}

pub struct Origin {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Origin {
    /// Starts an origin on a thread of its own, for as long as this process lives.
    pub fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, for_thread));
        });
        Self { address, shared }
    }

    /// Returns the number of requests so far.
    pub fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::Relaxed)
    }

    /// Sets the delay of each response from now on.
    pub fn delay(&self, delay: Duration) {
        self.shared.delay.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::Relaxed);
    }
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) {
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        // The cache may close the connection at any time.
        let shared = Arc::clone(&shared);
        tokio::spawn(async move { answer(stream, &shared).await });
    }
}

async fn answer(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let filler = vec![b'x'; 256 * 1024];
    let mut head = Vec::new();
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        shared.asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(shared.delay.load(Ordering::Relaxed))).await;
        let mut left = length_in(target(&head));
        let content = if is_script(target(&head)) {
            "text/javascript\r\ncontent-encoding: gzip\r\nvary: accept-encoding"
        } else {
            "application/octet-stream"
        };
        let fields = format!("content-type: {content}\r\ncache-control: public, max-age=31536000, immutable");
        let mut piece = format!("HTTP/1.1 200 OK\r\ncontent-length: {left}\r\n{fields}\r\n\r\n").into_bytes();
        // A small response is a single write.
        let with_head = left.min(filler.len());
        piece.extend_from_slice(&filler[..with_head]);
        stream.write_all(&piece).await?;
        left -= with_head;
        while left > 0 {
            let next = left.min(filler.len());
            stream.write_all(&filler[..next]).await?;
            left -= next;
        }
    }
}
