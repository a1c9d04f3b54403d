//! Connections, bounded in number and time.
//!
//! Whoever can reach a port can open connections and leave them idle. Where the limit is reached, the oldest idle
//! connection makes room for a new one, so that a probe is answered however many there are. There is no limit for each
//! peer: behind a service mesh all peers are one.

use std::{
    collections::BTreeMap,
    future::Future as _,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Notify, oneshot},
    time::{Sleep, sleep},
};

/// What the connections of a port may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections open at once.
    pub(super) connections: usize,
    /// How long a request may take to arrive, from accept on.
    pub(super) request: Duration,
    /// How long a connection may take for its one request, from accept to the last byte.
    pub(super) lifetime: Duration,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has not been read yet: its request may be there already.
    Accepted,
    /// Its request has not arrived in full.
    Idle,
    /// It is answered.
    Answered,
}

#[derive(Debug)]
struct Slot {
    phase: Phase,
    /// Ends the connection; gone once used.
    end: Option<oneshot::Sender<()>>,
}

/// The connections of a port, oldest first.
#[derive(Debug, Default)]
struct Slots {
    next: u64,
    open: BTreeMap<u64, Slot>,
}

/// What must happen before one more connection is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Capacity {
    /// Nothing.
    Free,
    /// A connection must end, or be read for the first time.
    Wait,
    /// This connection makes room.
    End(u64),
}

impl Slots {
    fn room(&self, most: usize) -> Capacity {
        if self.open.len() < most {
            return Capacity::Free;
        }
        let oldest = |phase| {
            let mut open = self.open.iter();
            open.find(|(_, slot)| slot.phase == phase).map(|(id, _)| *id)
        };
        if self.open.values().any(|slot| slot.end.is_none()) {
            Capacity::Wait
        } else if let Some(id) = oldest(Phase::Idle) {
            Capacity::End(id)
        } else if oldest(Phase::Accepted).is_some() {
            Capacity::Wait
        } else {
            oldest(Phase::Answered).map_or(Capacity::Wait, Capacity::End)
        }
    }
}

#[derive(Debug)]
struct Shared {
    slots: Mutex<Slots>,
    /// A slot changed. Only the port's loop waits for it.
    changed: Notify,
}

impl Shared {
    fn with<T>(&self, with: impl FnOnce(&mut Slots) -> T) -> T {
        with(&mut self.slots.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until fewer than `most` connections are open, and ends the oldest idle one where they are not.
    async fn make_room(&self, most: usize) {
        loop {
            let free = self.with(|slots| {
                let room = slots.room(most);
                if let Capacity::End(id) = room
                    && let Some(end) = slots.open.get_mut(&id).and_then(|slot| slot.end.take())
                {
                    // An error means that it ended by itself.
                    let _ended = end.send(());
                }
                room == Capacity::Free
            });
            if free {
                return;
            }
            self.changed.notified().await;
        }
    }
}

/// A listener that keeps to [`Limits`].
pub(super) struct Bounded {
    listener: TcpListener,
    limits: Limits,
    shared: Arc<Shared>,
}

impl Bounded {
    pub(super) fn new(listener: TcpListener, limits: Limits) -> Self {
        Self {
            listener,
            limits,
            shared: Arc::new(Shared {
                slots: Mutex::default(),
                changed: Notify::new(),
            }),
        }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        self.shared.make_room(self.limits.connections).await;
        let (end, ended) = oneshot::channel();
        let id = self.shared.with(|slots| {
            let id = slots.next;
            slots.next += 1;
            let slot = Slot {
                phase: Phase::Accepted,
                end: Some(end),
            };
            slots.open.insert(id, slot);
            id
        });
        let connection = Connection {
            stream,
            id,
            phase: Phase::Accepted,
            ended,
            request: Box::pin(sleep(self.limits.request)),
            lifetime: Box::pin(sleep(self.limits.lifetime)),
            shared: Arc::clone(&self.shared),
        };
        (connection, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails after its time, whatever the peer does or leaves undone.
pub(super) struct Connection {
    stream: TcpStream,
    id: u64,
    phase: Phase,
    ended: oneshot::Receiver<()>,
    request: Pin<Box<Sleep>>,
    lifetime: Pin<Box<Sleep>>,
    shared: Arc<Shared>,
}

impl Connection {
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.shared.with(|slots| {
            if let Some(slot) = slots.open.get_mut(&self.id) {
                slot.phase = phase;
            }
        });
        self.shared.changed.notify_one();
    }

    fn within<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.lifetime.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if Pin::new(&mut self.ended).poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        poll(Pin::new(&mut self.stream), context)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.with(|slots| slots.open.remove(&self.id));
        self.shared.changed.notify_one();
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.within(cx, |stream, cx| stream.poll_read(cx, buffer));
        if read.is_pending() && self.phase != Phase::Answered {
            if self.phase == Phase::Accepted {
                self.enter(Phase::Idle);
            }
            if self.request.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.phase != Phase::Answered {
            self.enter(Phase::Answered);
        }
        self.within(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.within(cx, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.within(cx, AsyncWrite::poll_shutdown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots of these phases, oldest first; whether each is ending already.
    fn slots(phases: &[(Phase, bool)]) -> Slots {
        let mut slots = Slots::default();
        for (id, (phase, ending)) in (0..).zip(phases) {
            let end = (!ending).then(|| oneshot::channel().0);
            slots.open.insert(id, Slot { phase: *phase, end });
        }
        slots
    }

    #[test]
    fn the_oldest_idle_connection_makes_room() {
        use Phase::{Accepted, Answered, Idle};
        for (open, most, expected) in [
            (vec![(Idle, false)], 2, Capacity::Free),
            (
                vec![(Answered, false), (Idle, false), (Idle, false)],
                3,
                Capacity::End(1),
            ),
            (
                vec![(Accepted, false), (Answered, false), (Idle, false)],
                3,
                Capacity::End(2),
            ),
            // One at a time.
            (vec![(Idle, true), (Idle, false)], 2, Capacity::Wait),
            // Its request may be there.
            (vec![(Accepted, false), (Answered, false)], 2, Capacity::Wait),
            (vec![(Answered, false), (Answered, false)], 2, Capacity::End(0)),
        ] {
            assert_eq!(slots(&open).room(most), expected, "{open:?}");
        }
    }
}
