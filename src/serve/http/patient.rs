//! A connection whose writer has patience for so long: who does not take an answer in time loses the connection, and frees its place.
//!
//! The time runs from the first write that had to wait, until everything is written and flushed. Taking a little now and then does
//! not lengthen it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A stream of which writing is bounded in time.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    patience: Duration,
    /// When the answer that is being written is given up.
    end: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, end: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, room)
    }
}

impl<S: AsyncWrite + Unpin> Patient<S> {
    /// What writing came to, unless its time is over.
    fn in_time<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let over = || Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nobody takes the answer")));
        if self.end.as_mut().is_some_and(|end| end.as_mut().poll(context).is_ready()) {
            return over();
        }
        let done = write(Pin::new(&mut self.stream), context);
        if done.is_pending() && self.end.is_none() {
            let mut end = Box::pin(sleep(self.patience));
            // Polled once, so that it wakes this task.
            if end.as_mut().poll(context).is_ready() {
                return over();
            }
            self.end = Some(end);
        }
        done
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.in_time(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.in_time(context, |stream, context| stream.poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.in_time(context, AsyncWrite::poll_flush))?;
        self.end = None;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(context, AsyncWrite::poll_shutdown)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::{Instant, timeout};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_cut_off_in_time() {
        let (stream, client) = duplex(16);
        let mut patient = Patient::new(stream, PATIENCE);
        let start = Instant::now();
        let written = timeout(10 * PATIENCE, patient.write_all(&[0; 100])).await.expect("it ends");
        assert_eq!(written.expect_err("nobody reads").kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= PATIENCE && start.elapsed() < 2 * PATIENCE, "{:?}", start.elapsed());
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_little_by_little_is_cut_off_as_well_and_one_in_time_is_not() {
        for (pause, is_cut_off) in [(Duration::from_secs(3), true), (Duration::from_millis(300), false)] {
            let (stream, mut client) = duplex(16);
            let mut patient = Patient::new(stream, PATIENCE);
            let reader = tokio::spawn(async move {
                let mut some = [0; 8];
                while client.read(&mut some).await.is_ok_and(|read| read > 0) {
                    sleep(pause).await;
                }
            });
            // Several answers, each with time of its own.
            let mut written = Ok(());
            for _ in 0..3 {
                written = async {
                    patient.write_all(&[0; 100]).await?;
                    patient.flush().await
                }
                .await;
            }
            assert_eq!(written.is_err(), is_cut_off);
            drop(patient);
            reader.await.expect("it ends");
        }
    }
}
