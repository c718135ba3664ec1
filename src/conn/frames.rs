//! A rate limit for the HTTP/2 control frames of a client, counted by their frame headers
//! (RFC 9113 §4.1).
//!
//! h2 limits resets, empty DATA frames and CONTINUATION frames. It accepts any number of
//! SETTINGS, PING, PRIORITY, `WINDOW_UPDATE` and unknown frames.

use std::time::Duration;

use tokio::time::Instant;

/// The length of a frame header, in bytes.
const HEADER: usize = 9;
/// The period of the limit.
const PERIOD: Duration = Duration::from_secs(1);
/// The control frames that each request allows in addition: PRIORITY, `WINDOW_UPDATE`.
const PER_REQUEST: u32 = 4;
/// The bytes sent to the client that allow one more control frame: the client answers data
/// with `WINDOW_UPDATE`, and measures its bandwidth by PING.
const BYTES_PER_FRAME: usize = 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;

/// Parses the frame headers of a connection, and counts its control frames.
pub(super) struct Frames {
    limit: u32,
    /// The header of the current frame; its first `received` bytes are valid.
    header: [u8; HEADER],
    received: usize,
    /// Bytes of the frame's payload that are still to be received.
    payload: usize,
    /// The highest stream that the client has opened.
    last_stream: u32,
    /// Control frames since the period began, less those that requests and sent bytes allow.
    count: u32,
    began: Instant,
    /// Bytes sent to the client that have not been converted into an allowed frame.
    sent: usize,
}

/// The client sent more control frames than the limit allows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flood;

impl Frames {
    /// Creates a counter for the bytes after the connection preface; `limit` is the number of
    /// control frames a second.
    pub(super) fn new(limit: u32) -> Self {
        Self {
            limit,
            header: [0; HEADER],
            received: 0,
            payload: 0,
            last_stream: 0,
            count: 0,
            began: Instant::now(),
            sent: 0,
        }
    }

    /// Counts the frames in the next received bytes.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        if self.began.elapsed() >= PERIOD {
            (self.began, self.count) = (Instant::now(), 0);
        }
        while !bytes.is_empty() {
            let skipped = self.payload.min(bytes.len());
            self.payload -= skipped;
            bytes = &bytes[skipped..];
            let part = (HEADER - self.received).min(bytes.len());
            self.header[self.received..self.received + part].copy_from_slice(&bytes[..part]);
            self.received += part;
            bytes = &bytes[part..];
            if self.received == HEADER {
                self.received = 0;
                self.take_frame()?;
            }
        }
        Ok(())
    }

    fn take_frame(&mut self) -> Result<(), Flood> {
        let [a, b, c, kind, _flags, stream @ ..] = self.header;
        self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
        match kind {
            HEADERS => {
                self.last_stream = self.last_stream.max(u32::from_be_bytes(stream) & (u32::MAX >> 1));
                self.count = self.count.saturating_sub(PER_REQUEST);
            }
            DATA | RST_STREAM | CONTINUATION => {}
            _ if self.count >= self.limit => return Err(Flood),
            _ => self.count += 1,
        }
        Ok(())
    }

    /// Notes that `bytes` bytes were sent to the client.
    pub(super) fn note_sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes);
        let allowed = self.sent / BYTES_PER_FRAME;
        self.sent %= BYTES_PER_FRAME;
        self.count = self.count.saturating_sub(u32::try_from(allowed).unwrap_or(u32::MAX));
    }

    /// Returns the frame that ends the connection: GOAWAY with `ENHANCE_YOUR_CALM`.
    pub(super) fn go_away(&self) -> [u8; HEADER + 8] {
        let mut frame = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0b];
        frame[HEADER..HEADER + 4].copy_from_slice(&self.last_stream.to_be_bytes());
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const LIMIT: u32 = 100;

    fn frame(kind: u8, stream: u32, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = [&length[1..], &[kind, 0], &stream.to_be_bytes()].concat();
        frame.resize(HEADER + payload, kind);
        frame
    }

    /// Sends up to 1000 copies of `frame`. Returns the number below the limit.
    fn accepted(frames: &mut Frames, frame: &[u8]) -> usize {
        (0..1000).take_while(|_| frames.take(frame).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn control_frames_are_limited_per_second() {
        for kind in [2, SETTINGS, PING, 8, 0x10, 0xff] {
            let mut frames = Frames::new(LIMIT);
            for _ in 0..3 {
                for _ in 0..LIMIT {
                    assert_eq!(frames.take(&frame(kind, 0, 8)), Ok(()), "type {kind}");
                }
                tokio::time::advance(PERIOD).await;
            }
            assert_eq!(accepted(&mut frames, &frame(kind, 0, 8)), LIMIT as usize, "type {kind}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_and_the_frames_that_responses_cause_are_not_limited() {
        let mut frames = Frames::new(LIMIT);
        for kind in [DATA, HEADERS, RST_STREAM, CONTINUATION] {
            assert_eq!(accepted(&mut frames, &frame(kind, 1, 100)), 1000, "type {kind}");
        }
        let request = [frame(HEADERS, 1, 30), frame(2, 1, 5), frame(8, 1, 4), frame(8, 0, 4)].concat();
        assert_eq!(accepted(&mut frames, &request), 1000);
        for _ in 0..1000 {
            frames.note_sent(16 * 1024);
            assert_eq!(frames.take(&[frame(8, 0, 4), frame(8, 1, 4), frame(PING, 0, 8)].concat()), Ok(()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_are_parsed_from_chunks_of_any_size() {
        let bytes = [frame(HEADERS, 7, 20), frame(PING, 0, 8), frame(SETTINGS, 0, 0), frame(DATA, 7, 300)].concat();
        for size in 1..bytes.len() {
            let mut frames = Frames::new(LIMIT);
            for chunk in bytes.chunks(size) {
                assert_eq!(frames.take(chunk), Ok(()));
            }
            assert_eq!((frames.count, frames.payload, frames.received), (2, 0, 0), "in chunks of {size}");
            assert_eq!(frames.go_away()[HEADER..], [0, 0, 0, 7, 0, 0, 0, 0x0b]);
        }
    }
}
