//! The lower bounds of a cache's cost: a socket loop that writes a prebuilt response, and bare hyper
//! with a lookup and a `Full<Bytes>`. Each is a process of its own with one thread.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

use bytes::Bytes;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use super::origin::path;
use super::{SIZES, bare};

const LISTENER: Token = Token(usize::MAX);

/// Sends the prebuilt response for the first line of each request. It polls with mio: with a thread
/// for each connection, switching threads would cost more than all the rest, and this would be no
/// lower bound.
pub fn socket_loop(address: SocketAddr) {
    let answers: Vec<_> = SIZES.iter().map(|&size| (path(0, size), answer(size))).collect();
    let mut poll = Poll::new().unwrap();
    let mut listener = TcpListener::bind(address).unwrap();
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).unwrap();
    let mut events = Events::with_capacity(1024);
    let mut connections = HashMap::new();
    let mut next = 0;
    loop {
        poll.poll(&mut events, None).unwrap();
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true).unwrap();
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut stream, Token(next), interest).unwrap();
                    connections.insert(Token(next), Connection { stream, request: Vec::new(), left: &[] });
                    next += 1;
                }
            } else if let Some(connection) = connections.get_mut(&event.token())
                && connection.go_on(&answers).is_err()
            {
                connections.remove(&event.token());
            }
        }
    }
}

fn answer(size: usize) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + size, b'x');
    answer
}

struct Connection<'a> {
    stream: TcpStream,
    request: Vec<u8>,
    /// The part of the response that the socket has not accepted yet.
    left: &'a [u8],
}

impl<'a> Connection<'a> {
    /// Writes and reads as far as the socket allows. An error ends the connection.
    fn go_on(&mut self, answers: &'a [(String, Vec<u8>)]) -> std::io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            while !self.left.is_empty() {
                match self.stream.write(self.left) {
                    Ok(written) => self.left = &self.left[written..],
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.request.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            if self.request.ends_with(b"\r\n\r\n") {
                let target = self.request.get(4..).unwrap_or_default();
                let found = answers.iter().find(|(path, _)| target.starts_with(path.as_bytes()));
                self.left = &found.ok_or(ErrorKind::InvalidInput)?.1;
                self.request.clear();
            }
        }
    }
}

/// Serves with bare hyper, over HTTP/1.1 and HTTP/2.
pub async fn hyper(address: SocketAddr) {
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    bare::serve(listener, SIZES.map(|size| (path(0, size), Bytes::from(vec![b'x'; size])))).await;
}
