//! Work beside the requests: fetching keys, leasing quotas, reading lists again.
//!
//! All of it runs on one thread with a runtime of its own, so that it neither waits for a busy worker nor
//! holds one up. A [`Task`] lives as long as whoever started it: what a reload replaces ends with it.

use std::future::Future;

use once_cell::sync::Lazy;
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

static RUNTIME: Lazy<Runtime> = Lazy::new(|| {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("background")
        .enable_all()
        .build()
        // Without a thread more there is nothing that this process could do.
        .expect("a thread for background work")
});

/// Background work, ended when dropped.
#[derive(Debug)]
pub struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts `work`; it ends with the returned task.
#[must_use = "the work ends when the task is dropped"]
pub fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Task {
    Task(RUNTIME.spawn(work).abort_handle())
}

/// Runs `work` there and waits for it. `None` if it panicked.
pub async fn run<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    RUNTIME.spawn(work).await.ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn work_ends_with_its_task() {
        let alive = Arc::new(());
        let held = alive.clone();
        let task = spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        assert_eq!(Arc::strong_count(&alive), 2);
        drop(task);
        for _ in 0..1000 {
            if Arc::strong_count(&alive) == 1 {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the work goes on");
    }
}
