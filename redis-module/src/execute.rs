//! A command's way through a sale: treat what is due, decide, apply, write the stream, replicate, tell.

mod fault;

use crate::data_type::{SaleKey, Value};
use crate::news::News;
use crate::order_stream::OrderStream;
use crate::server::{Access, Ctx, ServerString};
use crate::state::State;
use crate::totals;
use flashsale_core::effect::{Wording, read_log};
use flashsale_core::protocol::reply::{self, Reply};
use flashsale_core::{Command, Effect, Events, Outcome, Sale, Situation};
use std::panic::{AssertUnwindSafe, catch_unwind};

pub(crate) use fault::Fault;

/// Whether the client of a command would wait for units that others hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    Never,
    Possible,
}

/// Whether a reply has been written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    Yes,
    NotYet,
}

/// One call of one command.
pub(crate) struct Call<'c, 's> {
    pub ctx: Ctx<'c>,
    /// The first word after the command.
    pub key_name: ServerString<'c>,
    /// The words after the key.
    pub words: &'s [&'c [u8]],
    /// The same, as strings of the server, if it still has them.
    pub strings: &'s [ServerString<'c>],
    pub state: &'s mut State,
    /// The key's order stream, once it had to be opened.
    pub stream: Option<OrderStream<'c>>,
}

/// Which length of the order stream a command must know or change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamUse {
    /// It may add entries.
    Writes,
    /// It is refused when there is a backlog.
    HeedsBacklog,
    Neither,
}

impl<'c> Call<'c, '_> {
    /// Carries out a command on the sale in the key, and answers.
    pub fn run(&mut self, command: &Command<'c>) -> Result<(), Fault> {
        if self.is_replayed() {
            return apply_words(self, std::slice::from_ref(command));
        }
        self.run_and_answer(command, Wording::Words, Waiting::Never).map(|_| ())
    }

    /// Carries out a command whose client may wait, or waits. With [`Waiting::Possible`] it stays unanswered if
    /// waiting may help. Who waits has no words any more that the server could replicate.
    pub fn run_as(&mut self, command: &Command<'c>, waiting: Waiting) -> Result<Answered, Fault> {
        self.run_and_answer(command, Wording::Effects, waiting)
    }

    fn run_and_answer(&mut self, command: &Command<'c>, wording: Wording, waiting: Waiting) -> Result<Answered, Fault> {
        let mut key = self.ctx.open(self.key_name, Access::Write);
        let value = SaleKey::existing(&mut key, self.state.data_type)?;
        value.count_commands(1);
        let now_ms = self.start(value, wording)?;
        let mut reply = self.ctx;
        let answered = self.step_contained(value, command, now_ms, waiting, &mut reply);
        finish(self.ctx, self.state, self.key_name, value, &mut self.stream);
        answered
    }

    /// Carries out a command that no client has sent: a transfer between shards.
    pub fn carry_out(&mut self, command: &Command<'c>) -> Result<Outcome<'c>, Fault> {
        let mut key = self.ctx.open(self.key_name, Access::Write);
        let value = SaleKey::existing(&mut key, self.state.data_type)?;
        let now_ms = self.start(value, Wording::Effects)?;
        let backlog = self.backlog(value, command)?;
        let situation = Situation { now_ms, backlog, ..Situation::default() };
        let (sale, state) = (value.sale_mut()?, &mut *self.state);
        let outcome = sale.run(command, &situation, &mut state.log, &mut state.facts);
        finish(self.ctx, self.state, self.key_name, value, &mut self.stream);
        Ok(outcome?)
    }

    /// Carries out commands as one step; the answer is an array of their answers.
    pub fn run_all(&mut self, commands: &[Command<'c>]) -> Result<(), Fault> {
        if self.is_replayed() {
            return apply_words(self, commands);
        }
        let mut reply = self.ctx;
        self.carry_out_all(commands, &mut reply)
    }

    /// The same, with the answers packed into one.
    pub fn run_all_packed(&mut self, commands: &[Command<'c>]) -> Result<(), Fault> {
        if self.is_replayed() {
            return apply_words(self, commands);
        }
        let mut packed = std::mem::take(&mut self.state.packed);
        packed.clear();
        let done = self.carry_out_all(commands, &mut packed);
        if done.is_ok() {
            Reply::bytes(&mut self.ctx, packed.as_bytes());
        }
        self.state.packed = packed;
        done
    }

    fn carry_out_all(&mut self, commands: &[Command<'c>], reply: &mut impl Reply) -> Result<(), Fault> {
        let mut key = self.ctx.open(self.key_name, Access::Write);
        let value = SaleKey::existing(&mut key, self.state.data_type)?;
        value.count_commands(commands.len());
        let now_ms = self.start(value, Wording::Words)?;
        reply.array(commands.len());
        for (at, command) in commands.iter().enumerate() {
            let before = self.state.log.commands();
            if let Err(fault) = self.step_contained(value, command, now_ms, Waiting::Never, reply) {
                reply.error(&fault.text());
            }
            // The words of a call tell all of its commands or none.
            if before == at && self.state.log.commands() == before {
                value.sale()?.spell_out(&commands[..at], &mut self.state.log);
            }
        }
        finish(self.ctx, self.state, self.key_name, value, &mut self.stream);
        Ok(())
    }

    /// Whether the command was carried out by the primary, or before a restart, and comes in its own words.
    fn is_replayed(&self) -> bool {
        let replayed = self.state.obeys && self.ctx.flags().is_replayed();
        debug_assert_eq!(replayed, self.ctx.flags().is_replayed());
        replayed
    }

    /// Starts the log of a step, and tells its time.
    #[inline(always)] // on the way of every request
    fn start(&mut self, value: &Value, wording: Wording) -> Result<u64, Fault> {
        let now_ms = value.sale()?.now(self.state.now());
        self.state.log.start(now_ms, wording);
        self.state.facts.clear();
        Ok(now_ms)
    }

    /// A bug in a rule stops this command alone: what was done before it, such as ending due holds, is replicated
    /// like any step, so that keys and replicas stay equal.
    #[inline(always)] // on the way of every request
    fn step_contained(
        &mut self,
        value: &mut Value,
        command: &Command<'c>,
        now_ms: u64,
        waiting: Waiting,
        reply: &mut impl Reply,
    ) -> Result<Answered, Fault> {
        catch_unwind(AssertUnwindSafe(|| self.step(value, command, now_ms, waiting, reply))).unwrap_or_else(|_| {
            report_bug(self.ctx);
            Err(Fault::Bug)
        })
    }

    fn step(
        &mut self,
        value: &mut Value,
        command: &Command<'c>,
        now_ms: u64,
        waiting: Waiting,
        reply: &mut impl Reply,
    ) -> Result<Answered, Fault> {
        let fresh_id = if wants_id(command) { self.state.ids.next(value.sale()?) } else { Vec::new() };
        let backlog = self.backlog(value, command)?;
        let situation = Situation { now_ms, fresh_id: &fresh_id, backlog, elsewhere: true };
        let (sale, state) = (value.sale_mut()?, &mut *self.state);
        let mut outcome = sale.run(command, &situation, &mut state.log, &mut state.facts)?;
        if let Outcome::Empty { sku } | Outcome::AllHeld { sku, .. } = &outcome
            && sale.shard().count > 1
        {
            let units = wanted(command, sku);
            let all_sold = state.bus.meet_shortage(self.ctx, self.key_name.bytes(), sale, sku, units, now_ms);
            if all_sold && matches!(outcome, Outcome::Empty { .. }) {
                outcome = Outcome::SoldOut { sku: sku.clone() };
            }
        }
        if waiting == Waiting::Possible && matches!(outcome, Outcome::AllHeld { .. } | Outcome::Empty { .. }) {
            return Ok(Answered::NotYet);
        }
        state.repeats |= state.log.is_empty() && outcome.tells_of_a_write();
        reply::outcome(reply, &outcome, self.key_name);
        Ok(Answered::Yes)
    }

    /// Makes sure that entries can be written, and tells an upper bound of the stream's length.
    #[inline(always)] // on the way of every request
    fn backlog(&mut self, value: &mut Value, command: &Command<'_>) -> Result<u64, Fault> {
        let sale = value.sale()?;
        let stream_use = stream_use(sale, command);
        let limit = sale.settings().backlog;
        // Entries of earlier commands of the same step are not written yet.
        let pending = self.state.facts.entries.len() as u64;
        let may_be_full = value.stream_len_bound().is_none_or(|bound| bound + pending >= limit);
        let must_open = match stream_use {
            StreamUse::Writes => true,
            StreamUse::HeedsBacklog => may_be_full,
            StreamUse::Neither => false,
        };
        if must_open {
            if self.stream.is_none() {
                let stream =
                    OrderStream::open(self.ctx, self.key_name, &mut self.state.words).ok_or(Fault::StreamWrongType)?;
                if stream.is_away(sale) {
                    return Err(Fault::StreamAway);
                }
                let given = |at: usize| Some((*self.words.get(at)?, *self.strings.get(at)?));
                self.stream = Some(stream.given([given(0), given(1)]));
            }
            if let Some(stream) = self.stream.as_ref().filter(|_| may_be_full) {
                value.set_stream_len(stream.len());
            }
        }
        Ok(value.stream_len_bound().unwrap_or(0) + pending)
    }

    /// Looks at the sale in the key.
    pub fn read<T>(&mut self, look: impl FnOnce(&mut Ctx<'c>, &Sale, u64) -> T) -> Result<T, Fault> {
        self.read_counted(|ctx, sale, now_ms, _| look(ctx, sale, now_ms))
    }

    /// Looks at the sale in the key, told how many commands have asked the key so far, this one among them.
    pub fn read_counted<T>(&mut self, look: impl FnOnce(&mut Ctx<'c>, &Sale, u64, u64) -> T) -> Result<T, Fault> {
        let mut key = self.ctx.open(self.key_name, Access::Read);
        let value = SaleKey::existing(&mut key, self.state.data_type)?;
        value.count_commands(1);
        let now_ms = self.state.now();
        Ok(look(&mut self.ctx, value.sale()?, now_ms, value.commands()))
    }

    /// Ends due holds now, and answers how many.
    pub fn expire(&mut self, most: usize) -> Result<(), Fault> {
        let mut key = self.ctx.open(self.key_name, Access::Write);
        let value = SaleKey::existing(&mut key, self.state.data_type)?;
        value.sale()?;
        let ended = expire(self.ctx, self.state, self.key_name, value, most);
        Reply::integer(&mut self.ctx, ended as i64);
        Ok(())
    }
}

/// A bug was caught: its own words are in the log already.
pub(crate) fn report_bug(ctx: Ctx<'_>) {
    totals::count_bug();
    ctx.warn("flashsale: a bug stopped a command; please report it with the lines above");
}

/// Units of a SKU that a request was short of: with UPTO one would have done.
fn wanted(command: &Command<'_>, sku: &[u8]) -> u64 {
    let items = match command {
        Command::Reserve(reserve) if reserve.up_to => return 1,
        Command::Reserve(reserve) => &reserve.items,
        Command::Order(order) => &order.items,
        _ => return 1,
    };
    items.iter().filter(|item| item.sku == sku).map(|item| u64::from(item.qty)).sum()
}

fn wants_id(command: &Command<'_>) -> bool {
    match command {
        Command::Reserve(reserve) => reserve.id.is_none(),
        Command::Order(order) => order.id.is_none(),
        _ => false,
    }
}

fn stream_use(sale: &Sale, command: &Command<'_>) -> StreamUse {
    match (command, sale.settings().events) {
        (_, Events::All) => StreamUse::Writes,
        (Command::Order(_) | Command::Confirm(_) | Command::Return(_), Events::Orders) => StreamUse::Writes,
        (Command::Reserve(_), _) => StreamUse::HeedsBacklog,
        _ => StreamUse::Neither,
    }
}

/// Ends at most `most` due holds of a sale, as a step of its own. Tells how many.
pub(crate) fn expire(
    ctx: Ctx<'_>,
    state: &mut State,
    key_name: ServerString<'_>,
    value: &mut Value,
    most: usize,
) -> usize {
    let server_ms = state.now();
    let Ok(sale) = value.sale_mut() else { return 0 };
    let now_ms = sale.now(server_ms);
    let due = sale.due(now_ms, most);
    state.log.start(now_ms, Wording::Effects);
    state.facts.clear();
    sale.expire(&due, now_ms, &mut state.log, &mut state.facts);
    finish(ctx, state, key_name, value, &mut None);
    due.len()
}

/// What follows every step: the stream, replication, news, and the time to look at the key again.
pub(crate) fn finish<'c>(
    ctx: Ctx<'c>,
    state: &mut State,
    key_name: ServerString<'_>,
    value: &mut Value,
    stream: &mut Option<OrderStream<'c>>,
) {
    let changed = !state.log.is_empty();
    if std::mem::take(&mut state.repeats) && !changed {
        // WAIT looks at what its own connection has written last (Redis 7.2 on, Valkey). Whoever repeats a command on
        // another connection would be told at once that replicas have what only this server has: so a repeat is
        // written too, as a log without effects.
        ctx.replicate_effects(key_name, state.log.bytes());
    }
    if changed {
        if !state.facts.entries.is_empty() {
            value.count_entries(state.facts.entries.len());
            let stream = stream.take().or_else(|| OrderStream::open(ctx, key_name, &mut state.words));
            write_stream(state, value, stream);
        }
        if state.log.has_effects() {
            ctx.replicate_effects(key_name, state.log.bytes());
        }
        if state.log.commands() > 0 {
            ctx.replicate_verbatim();
        }
        ctx.signal_modified(key_name);
        if state.facts.may_help_waiters() {
            state.waiters.wake(ctx, key_name);
        }
        warn_if_inconsistent(ctx, state, key_name);
    }
    value.schedule(&mut state.schedule, || (ctx.selected_db(), key_name.bytes().to_vec()));
    if changed && let Ok(sale) = value.sale() {
        News::of(sale, &state.facts).tell(ctx, key_name);
    }
}

fn write_stream(state: &mut State, value: &mut Value, stream: Option<OrderStream<'_>>) {
    let Ok(sale) = value.sale_mut() else { return };
    match stream {
        Some(stream) => stream.write_as_primary(sale, &mut state.facts, &mut state.log, &mut state.words),
        None => state.facts.inconsistent = Some("the order stream's key holds something else"),
    }
}

#[inline]
fn warn_if_inconsistent(ctx: Ctx<'_>, state: &State, key_name: ServerString<'_>) {
    if let Some(problem) = state.facts.inconsistent {
        warn_of(problem, ctx, key_name);
    }
}

#[cold]
fn warn_of(problem: &str, ctx: Ctx<'_>, key_name: ServerString<'_>) {
    let key = key_name.bytes().escape_ascii();
    ctx.warn(&format!("flashsale: {key}: {problem}: run FLASH.AUDIT and compare with a replica"));
}

/// Makes a sale: the first effect of its log.
pub(crate) fn create(call: &mut Call<'_, '_>, mut effects: Vec<Effect<'_>>) -> Result<(), Fault> {
    let mut key = call.ctx.open(call.key_name, Access::Write);
    if SaleKey::of(&mut key, call.state.data_type)?.is_some() {
        return Err(Fault::Exists);
    }
    let stream = OrderStream::open(call.ctx, call.key_name, &mut call.state.words).ok_or(Fault::StreamWrongType)?;
    if let Some(floor) = stream.floor() {
        effects.insert(1, floor);
    }
    let now_ms = call.state.now();
    call.state.log.start(now_ms, Wording::Effects);
    call.state.facts.clear();
    let value = create_value(&mut key, call.state, &effects)?;
    for effect in &effects {
        call.state.log.push(effect);
    }
    for effect in &effects[1..] {
        value.sale_mut()?.apply(now_ms, effect, &mut call.state.facts);
    }
    finish(call.ctx, call.state, call.key_name, value, &mut Some(stream));
    Ok(())
}

fn create_value<'k>(
    key: &'k mut crate::server::Key<'_>,
    state: &State,
    effects: &[Effect<'_>],
) -> Result<&'k mut Value, Fault> {
    let Some(Effect::Create(settings, shard)) = effects.first() else { return Err(Fault::NoSale) };
    let value = Value::ready(Sale::new(*settings, *shard, state.seed));
    SaleKey::put(key, state.data_type, value).ok_or_else(|| Fault::Damaged("the key cannot be written".into()))
}

/// Carries out effects that were decided elsewhere: by the primary, or before a restart.
pub(crate) fn apply_log(call: &mut Call<'_, '_>, log: &[u8]) -> Result<(), Fault> {
    let (at_ms, effects) = read_log(log).map_err(|error| Fault::Damaged(error.to_string().into()))?;
    let mut key = call.ctx.open(call.key_name, Access::Write);
    let mut effects = &effects[..];
    let value = match SaleKey::of(&mut key, call.state.data_type)? {
        Some(value) => value,
        None => {
            let value = create_value(&mut key, call.state, effects)?;
            effects = &effects[1..];
            value
        }
    };
    call.state.facts.clear();
    for effect in effects {
        value.sale_mut()?.apply(at_ms, effect, &mut call.state.facts);
    }
    applied(call, value)
}

/// Carries out commands that were decided elsewhere and come in their own words.
fn apply_words(call: &mut Call<'_, '_>, commands: &[Command<'_>]) -> Result<(), Fault> {
    let mut key = call.ctx.open(call.key_name, Access::Write);
    let value = SaleKey::existing(&mut key, call.state.data_type)?;
    call.state.facts.clear();
    let sale = value.sale_mut()?;
    for command in commands {
        let Some(effects) = sale.effects_in_words(command) else {
            call.state.facts.inconsistent = Some("a command that has no effect here");
            continue;
        };
        for effect in &effects {
            sale.apply(sale.clock_ms(), effect, &mut call.state.facts);
        }
    }
    applied(call, value)?;
    Reply::ok(&mut call.ctx);
    Ok(())
}

/// What follows effects that were decided elsewhere: the stream, whoever replicates from here, news.
fn applied(call: &mut Call<'_, '_>, value: &mut Value) -> Result<(), Fault> {
    if !call.state.facts.entries.is_empty() {
        value.count_entries(call.state.facts.entries.len());
        match OrderStream::open(call.ctx, call.key_name, &mut call.state.words) {
            Some(stream) => stream.write_as_replica(call.ctx, value.sale()?, &call.state.facts, &mut call.state.words),
            None => call.state.facts.inconsistent = Some("the order stream's key holds something else"),
        }
    }
    call.ctx.replicate_verbatim();
    call.ctx.signal_modified(call.key_name);
    warn_if_inconsistent(call.ctx, call.state, call.key_name);
    value.schedule(&mut call.state.schedule, || (call.ctx.selected_db(), call.key_name.bytes().to_vec()));
    News::of(value.sale()?, &call.state.facts).tell(call.ctx, call.key_name);
    Ok(())
}
