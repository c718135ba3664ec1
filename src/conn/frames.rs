//! The frames that a client sends over HTTP/2, counted by their headers (RFC 9113 §4.1).
//!
//! h2 bounds resets, empty DATA and CONTINUATION frames; SETTINGS, PING, PRIORITY,
//! `WINDOW_UPDATE` and unknown frames it takes without end.

use std::time::Duration;

use tokio::time::Instant;

/// The bytes of a frame's header.
const HEADER: usize = 9;
/// The length of time that the limit is for.
const PERIOD: Duration = Duration::from_secs(1);
/// The control frames that a request may bring with it: a priority, windows.
const PER_REQUEST: u32 = 4;
/// A control frame is free for so many bytes that the client was sent: it opens windows
/// for more of them, and measures its bandwidth by PING.
const BYTES_SENT: usize = 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;

/// Counts control frames, and finds the one that is too many.
pub(super) struct Frames {
    limit: u32,
    /// The header of the frame that is coming, and how much of it has come.
    header: [u8; HEADER],
    came: usize,
    /// How much of the frame's payload has still to come, in bytes.
    payload: usize,
    /// The highest stream that the client has opened.
    last_stream: u32,
    /// Control frames since the period began, less those that were free.
    count: u32,
    began: Instant,
    /// Bytes that were sent, and that no frame was free for.
    sent: usize,
}

/// There were more control frames than the limit allows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flood;

impl Frames {
    /// Counts what follows the preface; `limit` is for a second.
    pub(super) fn new(limit: u32) -> Self {
        Self {
            limit,
            header: [0; HEADER],
            came: 0,
            payload: 0,
            last_stream: 0,
            count: 0,
            began: Instant::now(),
            sent: 0,
        }
    }

    /// Takes bytes that have come.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        if self.began.elapsed() >= PERIOD {
            (self.began, self.count) = (Instant::now(), 0);
        }
        while !bytes.is_empty() {
            let skipped = self.payload.min(bytes.len());
            self.payload -= skipped;
            bytes = &bytes[skipped..];
            let part = (HEADER - self.came).min(bytes.len());
            self.header[self.came..self.came + part].copy_from_slice(&bytes[..part]);
            self.came += part;
            bytes = &bytes[part..];
            if self.came == HEADER {
                self.came = 0;
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

    /// Notes that the client was sent so many bytes.
    pub(super) fn note_sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes);
        let free = self.sent / BYTES_SENT;
        self.sent %= BYTES_SENT;
        self.count = self.count.saturating_sub(u32::try_from(free).unwrap_or(u32::MAX));
    }

    /// The frame that ends a connection: GOAWAY with `ENHANCE_YOUR_CALM`.
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

    /// How many of `frame` are taken, up to a thousand.
    fn taken(frames: &mut Frames, frame: &[u8]) -> usize {
        (0..1000).take_while(|_| frames.take(frame).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn control_frames_are_limited_by_the_second() {
        for kind in [2, SETTINGS, PING, 8, 0x10, 0xff] {
            let mut frames = Frames::new(LIMIT);
            for _ in 0..3 {
                for _ in 0..LIMIT {
                    assert_eq!(frames.take(&frame(kind, 0, 8)), Ok(()), "type {kind}");
                }
                tokio::time::advance(PERIOD).await;
            }
            assert_eq!(taken(&mut frames, &frame(kind, 0, 8)), LIMIT as usize, "type {kind}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_contents_and_what_answers_call_for_are_free() {
        let mut frames = Frames::new(LIMIT);
        for kind in [DATA, HEADERS, RST_STREAM, CONTINUATION] {
            assert_eq!(taken(&mut frames, &frame(kind, 1, 100)), 1000, "type {kind}");
        }
        let request = [frame(HEADERS, 1, 30), frame(2, 1, 5), frame(8, 1, 4), frame(8, 0, 4)].concat();
        assert_eq!(taken(&mut frames, &request), 1000);
        for _ in 0..1000 {
            frames.note_sent(16 * 1024);
            assert_eq!(frames.take(&[frame(8, 0, 4), frame(8, 1, 4), frame(PING, 0, 8)].concat()), Ok(()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_are_found_however_they_are_cut() {
        let bytes = [frame(HEADERS, 7, 20), frame(PING, 0, 8), frame(SETTINGS, 0, 0), frame(DATA, 7, 300)].concat();
        for size in 1..bytes.len() {
            let mut frames = Frames::new(LIMIT);
            for chunk in bytes.chunks(size) {
                assert_eq!(frames.take(chunk), Ok(()));
            }
            assert_eq!((frames.count, frames.payload, frames.came), (2, 0, 0), "in chunks of {size}");
            assert_eq!(frames.go_away()[HEADER..], [0, 0, 0, 7, 0, 0, 0, 0x0b]);
        }
    }
}
