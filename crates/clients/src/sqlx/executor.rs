//! The traits of sqlx that make `&Pool` usable like `&PgPool`.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::sqlx::pool::PoolConnection;
use ::sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use ::sqlx::{Acquire, Describe, Either, Error, Execute, Executor, Postgres, Transaction};
use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use tokio::sync::mpsc;

use super::Pool;

impl<'p> Executor<'p> for &Pool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let pool = self.clone();
        let (sender, receiver) = mpsc::channel(1);
        let send = async move {
            let mut connection = match pool.acquire().await {
                Ok(connection) => connection,
                Err(error) => {
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            };
            let mut results = connection.fetch_many(query);
            while let Some(result) = next(&mut results).await {
                let is_last = result.is_err();
                if sender.send(result).await.is_err() || is_last {
                    return;
                }
            }
        };
        Box::pin(Results {
            send: Some(Box::pin(send)),
            receiver,
        })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let pool = self.clone();
        Box::pin(async move { pool.acquire().await?.fetch_optional(query).await })
    }

    fn prepare_with<'e, 'q: 'e>(
        self,
        sql: &'q str,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement<'q>, Error>>
    where
        'p: 'e,
    {
        let pool = self.clone();
        Box::pin(async move { pool.acquire().await?.prepare_with(sql, parameters).await })
    }

    fn describe<'e, 'q: 'e>(self, sql: &'q str) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'p: 'e,
    {
        let pool = self.clone();
        Box::pin(async move { pool.acquire().await?.describe(sql).await })
    }
}

impl<'c> Acquire<'c> for &Pool {
    type Database = Postgres;
    type Connection = PoolConnection<Postgres>;

    fn acquire(self) -> BoxFuture<'c, Result<PoolConnection<Postgres>, Error>> {
        let pool = self.clone();
        Box::pin(async move { pool.acquire().await })
    }

    fn begin(self) -> BoxFuture<'c, Result<Transaction<'c, Postgres>, Error>> {
        let pool = self.clone();
        Box::pin(async move { pool.begin().await })
    }
}

/// The results of a query, with the connection that returns them.
///
/// The results borrow the connection, so one future owns both. It sends them through a channel, and is polled only
/// with the stream.
struct Results<'e, T> {
    send: Option<BoxFuture<'e, ()>>,
    receiver: mpsc::Receiver<T>,
}

impl<T> Stream for Results<'_, T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        if let Some(send) = &mut self.send
            && send.as_mut().poll(context).is_ready()
        {
            self.send = None;
        }
        let item = ready!(self.receiver.poll_recv(context));
        Poll::Ready(item)
    }
}

async fn next<T>(stream: &mut BoxStream<'_, T>) -> Option<T> {
    std::future::poll_fn(|context| stream.as_mut().poll_next(context)).await
}
