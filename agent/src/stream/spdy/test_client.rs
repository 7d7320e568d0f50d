//! A SPDY client for tests: frames by hand, over a connection of any kind.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::codec::{Decoder, Encoder, Frame, Headers};

pub(in super::super) struct TestClient<T> {
    io: T,
    encoder: Encoder,
    decoder: Decoder,
    bytes: BytesMut,
    next: u32,
    /// What was received on each stream, and whether it has ended.
    pub(in super::super) received: HashMap<u32, (Vec<u8>, bool)>,
    pub(in super::super) pongs: Vec<u32>,
    /// Streams that were reset.
    pub(in super::super) refused: Vec<u32>,
    pub(in super::super) gone_away: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> TestClient<T> {
    pub(in super::super) fn new(io: T) -> Self {
        Self {
            io,
            encoder: Encoder::new(),
            decoder: Decoder::new(),
            bytes: BytesMut::new(),
            next: 1,
            received: HashMap::new(),
            pongs: Vec::new(),
            refused: Vec::new(),
            gone_away: false,
        }
    }

    async fn send(&mut self, frame: Frame) {
        let mut out = BytesMut::new();
        self.encoder.encode(&frame, &mut out);
        if let Frame::Data { payload, .. } = frame {
            out.extend_from_slice(&payload);
        }
        self.io.write_all(&out).await.unwrap();
    }

    /// Opens a stream and waits for the answer, as Kubernetes clients do. `None`: refused.
    pub(in super::super) async fn open<const N: usize>(&mut self, headers: [(&str, &str); N]) -> Option<u32> {
        let stream = self.next;
        self.next += 2;
        self.send(Frame::SynStream { stream, fin: false, headers: Headers::from(headers) }).await;
        while !self.received.contains_key(&stream) && !self.refused.contains(&stream) {
            assert!(self.receive().await, "closed before the answer");
        }
        self.received.contains_key(&stream).then_some(stream)
    }

    pub(in super::super) async fn data(&mut self, stream: u32, payload: impl Into<Bytes>, fin: bool) {
        self.send(Frame::Data { stream, fin, payload: payload.into() }).await;
    }

    pub(in super::super) async fn reset(&mut self, stream: u32) {
        self.send(Frame::RstStream { stream, status: 5 }).await;
    }

    pub(in super::super) async fn ping(&mut self, id: u32) {
        self.send(Frame::Ping { id }).await;
    }

    pub(in super::super) async fn window(&mut self, stream: u32, delta: u32) {
        self.send(Frame::WindowUpdate { stream, delta }).await;
    }

    pub(in super::super) async fn initial_window(&mut self, window: u32) {
        self.send(Frame::Settings { initial_window: Some(window) }).await;
    }

    /// Takes a frame; false at the connection's end.
    pub(in super::super) async fn receive(&mut self) -> bool {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.bytes).expect("the server's frames") {
                match frame {
                    Frame::SynReply { stream, .. } => drop(self.received.insert(stream, Default::default())),
                    Frame::Data { stream, fin, payload } => {
                        let received = self.received.get_mut(&stream).expect("an accepted stream");
                        assert!(!received.1, "nothing follows the end");
                        received.0.extend(payload);
                        received.1 = fin;
                    }
                    Frame::RstStream { stream, .. } => self.refused.push(stream),
                    Frame::Ping { id } => self.pongs.push(id),
                    Frame::GoAway { .. } => self.gone_away = true,
                    Frame::WindowUpdate { .. } => {}
                    other => panic!("{other:?}"),
                }
                return true;
            }
            if self.io.read_buf(&mut self.bytes).await.unwrap_or(0) == 0 {
                return false;
            }
        }
    }

    /// Receives until the stream has ended, and says what came.
    pub(in super::super) async fn read_to_end(&mut self, stream: u32) -> Vec<u8> {
        while !self.received[&stream].1 {
            assert!(self.receive().await, "closed before the stream's end");
        }
        self.received[&stream].0.clone()
    }
}
