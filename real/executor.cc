#include "real/executor.h"

#include <algorithm>
#include <cstring>

#include "sim/check.h"

namespace reckon::real {

using sim::Phase;
using sim::Stream;

// ---- worker

Worker::Worker() : thread_([this] { loop(); }) {}

Worker::~Worker() {
  {
    const std::lock_guard lock(mutex_);
    end_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Worker::post(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  wake_.notify_one();
}

void Worker::loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return end_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    auto job = std::move(jobs_.front());
    jobs_.pop_front();
    busy_ = true;
    lock.unlock();
    if (!failed_.load()) {
      try {
        job();
      } catch (...) {
        error_ = std::current_exception();
        failed_.store(true);
      }
    }
    job = nullptr;
    lock.lock();
    busy_ = false;
    if (jobs_.empty()) idle_.notify_all();
  }
}

void Worker::drain() {
  {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [&] { return jobs_.empty() && !busy_; });
  }
  rethrow();
}

void Worker::rethrow() {
  if (failed_.load()) std::rethrow_exception(error_);
}

// ---- set-up

Executor::Executor(const sim::Program& program, const plan::Schedule& schedule,
                   const Setting& setting, const Rank& rank)
    : program_(program),
      setting_(setting),
      ops_(rank.ops),
      weights_(rank.weights),
      optimizer_(rank.optimizer),
      communicator_(rank.communicator),
      transport_(rank.communicator.transport()),
      meter_(rank.meter),
      device_(rank.device),
      micro_batches_(static_cast<std::uint32_t>(schedule.micro_batches)),
      chunks_(schedule.chunks) {
  // A bidirectional schedule stores half of the ranks; the others do the same in mirror image.
  const int roles = static_cast<int>(program.roles.size());
  mirrored_ = setting.place.pp >= roles;
  role_index_ = static_cast<std::uint32_t>(mirrored_ ? setting.plan.pp - 1 - setting.place.pp
                                                     : setting.place.pp);
  role_ = &program.roles[role_index_];
  bound_.resize(program.blocks.size());
  for (const sim::Slot& slot : role_->slots)
    if (bound_[slot.block].block == nullptr)
      bound_[slot.block] = bind(*program.blocks[slot.block], false);
  bound_[role_->tail] = bind(*program.blocks[role_->tail], true);

  // Gathers run in order: a slot may start when the last one that it or an earlier slot needs is
  // over.
  gathers_before_.assign(role_->slots.size(), 0);
  std::size_t gathers = 0;
  for (const sim::Sync& sync : role_->syncs) {
    if (!sync.before) continue;
    ++gathers;
    for (std::size_t i = sync.slot; i < gathers_before_.size(); ++i)
      gathers_before_[i] = std::max(gathers_before_[i], gathers);
  }
  gather_marks_.resize(gathers);
  exchange_.post([this] { device_.bind_thread(); });
  data_.post([this] { device_.bind_thread(); });
}

// The trainer has one queue for computing.
Stream Executor::stream_of(const sim::Op& op) {
  return op.stream == Stream::Compute2 ? Stream::Compute : op.stream;
}

Executor::Bound Executor::bind(const sim::Block& block, bool optimizer) {
  Bound b{.block = &block};
  const std::size_t n = block.ops.size();
  b.ends_forward.assign(n, 0);
  std::map<int, std::size_t> last_forward;
  for (std::size_t i = 0; i < n; ++i) {
    const sim::Op& op = block.ops[i];
    b.actions.push_back(optimizer ? nullptr : Ops::action(op, block.works[op.work]));
    const bool computes =
        optimizer || op.stream == Stream::Compute || op.stream == Stream::Compute2;
    b.computes.push_back(computes);
    b.weights |= op.phase == Phase::W;
    const auto it = std::find(labels_.begin(), labels_.end(), op.label);
    b.label.push_back(static_cast<std::uint32_t>(it - labels_.begin()));
    if (it == labels_.end()) labels_.push_back(op.label);
    if (!computes || op.part < 0) continue;
    if (op.phase == Phase::F && !op.recompute) last_forward[op.part] = i;
  }
  b.marked.assign(n, 0);
  for (std::size_t i = 0; i < n; ++i) {
    const sim::Op& op = block.ops[i];
    b.exchanges |= !b.computes[i];
    for (std::uint32_t w = 0; w < op.waits; ++w) {
      const std::uint32_t on = block.waits[op.first_wait + w];
      if (stream_of(block.ops[on]) != stream_of(op)) b.marked[on] = 1;
    }
  }
  b.here = b.computes;
  std::uint32_t last_here = 0;
  for (std::size_t i = 0; i < n; ++i) {
    b.here_before.push_back(last_here);
    if (b.computes[i]) continue;
    std::size_t next = i + 1;
    while (next < n && !b.computes[next]) ++next;
    if (next < n) {
      const sim::Op& op = block.ops[next];
      const auto* w = block.waits.data() + op.first_wait;
      b.here[i] = std::find(w, w + op.waits, i) != w + op.waits;
    }
    if (b.here[i]) last_here = static_cast<std::uint32_t>(i) + 1;
    b.elsewhere |= !b.here[i];
  }
  for (const auto& [part, i] : last_forward) b.ends_forward[i] = 1;
  return b;
}

std::uint32_t Executor::actual(std::uint32_t micro_batch) const {
  return mirrored_ ? (micro_batch + micro_batches_ / 2) % micro_batches_ : micro_batch;
}

std::uint32_t Executor::tag(bool backward, std::uint16_t chunk, std::uint32_t micro_batch) const {
  const auto chunks = static_cast<std::uint32_t>(chunks_);
  return ((backward ? chunks : 0) + chunk) * micro_batches_ + micro_batch;
}

int Executor::rank_of(int chunk, std::uint32_t micro_batch) const {
  return plan::rank_of(setting_.plan.schedule, setting_.plan.pp, setting_.plan.vpp,
                       static_cast<int>(micro_batches_), chunk, static_cast<int>(micro_batch));
}

sim::SimTime Executor::now() const {
  const auto since = std::chrono::steady_clock::now() - start_;
  return {std::chrono::duration_cast<std::chrono::nanoseconds>(since).count() * 1000};
}

// ---- one block

void Executor::wait_for(Run& run, std::uint32_t op) {
  std::atomic<std::uint32_t>& flag = run.done[op];
  while (flag.load(std::memory_order_acquire) == 0) flag.wait(0, std::memory_order_acquire);
}

void Executor::run_op(Run& run, std::uint32_t i) {
  const sim::Block& block = *run.bound->block;
  const sim::Op& op = block.ops[i];
  const bool forward = op.phase == Phase::F && !op.recompute;
  Queue& q = queue_of(op);
  for (std::uint32_t w = 0; w < op.waits; ++w) {
    const std::uint32_t on = block.waits[op.first_wait + w];
    if (run.bound->marked[on] && stream_of(block.ops[on]) != stream_of(op)) q.wait(run.marks[on]);
  }
  sim::Event* event = run.events != nullptr ? &(*run.events)[i] : nullptr;
  Stamps* stamps = run.stamps != nullptr ? &(*run.stamps)[i] : nullptr;
  if (event != nullptr) event->start = now();
  if (stamps != nullptr) stamps->from = q.stamp();
  ops_.run(run.bound->actions[i], {.q = q,
                                   .op = op,
                                   .work = block.works[op.work],
                                   .layout = forward ? *run.forward_layout : *run.backward_layout,
                                   .chunk = forward ? *run.forward_weights : *run.backward_weights,
                                   .pass = forward ? *run.forward : *run.backward});
  if (event != nullptr) event->end = now();
  if (stamps != nullptr) stamps->to = q.stamp();
  if (run.bound->marked[i]) run.marks[i] = q.mark();
}

void Executor::run_block(Run& run) {
  const Bound& bound = *run.bound;
  const sim::Block& block = *bound.block;
  const auto n = static_cast<std::uint32_t>(block.ops.size());
  run.done = std::make_unique<std::atomic<std::uint32_t>[]>(n);
  run.marks.resize(n);
  constexpr Stream kExchanges[] = {Stream::Expert, Stream::Model};
  if (bound.exchanges && device_.remote()) {
    const Mark start = device_.compute().mark();
    for (const Stream stream : kExchanges) device_.queue(stream).wait(start);
  }
  const auto signal = [&](std::uint32_t i) {
    run.done[i].store(1, std::memory_order_release);
    run.done[i].notify_all();
  };
  const auto wait_for_all = [&](std::uint32_t i) {
    const sim::Op& op = block.ops[i];
    for (std::uint32_t w = 0; w < op.waits; ++w) wait_for(run, block.waits[op.first_wait + w]);
  };
  // Exchanges keep their order, on whichever thread: all members of a group see the same.
  const auto wait_for_earlier_exchanges = [&](std::uint32_t i) {
    for (std::uint32_t k = 0; k < i; ++k)
      if (!bound.here[k]) wait_for(run, k);
  };
  if (bound.elsewhere)
    exchange_.post([&] {
      std::uint32_t i = 0;
      try {
        for (; i < n; ++i) {
          if (bound.here[i]) continue;
          wait_for_all(i);
          if (bound.here_before[i] > 0) wait_for(run, bound.here_before[i] - 1);
          if (run.failed) return;
          run_op(run, i);
          signal(i);
        }
      } catch (...) {
        // The compute thread must not wait for ever; it looks for the failure when it wakes.
        transport_.abort("an exchange failed");
        run.failed = true;
        for (std::uint32_t k = i; k < n; ++k)
          if (!bound.here[k]) signal(k);
        throw;
      }
    });
  try {
    for (std::uint32_t i = 0; i < n; ++i) {
      if (!bound.here[i]) continue;
      const sim::Op& op = block.ops[i];
      if (bound.elsewhere) {
        wait_for_all(i);
        if (!bound.computes[i]) wait_for_earlier_exchanges(i);
        if (run.failed) exchange_.drain();  // throws
      }
      run_op(run, i);
      if (bound.ends_forward[i]) ops_.after_forward(*run.forward, *run.forward_layout, op.part);
      if (bound.elsewhere) signal(i);
    }
  } catch (...) {
    if (bound.elsewhere) {
      transport_.abort("an op failed");
      run.failed = true;
      for (std::uint32_t i = 0; i < n; ++i) signal(i);
      try {
        exchange_.drain();
      } catch (...) {  // what the op threw says more
      }
    }
    throw;
  }
  if (bound.elsewhere) exchange_.drain();
  if (bound.exchanges && device_.remote())
    for (const Stream stream : kExchanges) device_.compute().wait(device_.queue(stream).mark());
}

// ---- messages

void Executor::release_sent() {
  while (!sent_.empty() && sent_.front().pending->done()) sent_.pop_front();
}

void Executor::send(Tensor what, int pipeline_rank, std::uint32_t tag) {
  if (pipeline_rank == setting_.place.pp) {
    handed_over_[tag] = std::move(what);
    return;
  }
  what.recount(Holds::Buffers);
  InFlight f{.what = std::move(what)};
  Queue& q = device_.queue(Stream::Pipe);
  q.wait(device_.compute().mark());
  f.pending = communicator_.send(q, {.peer = rank_at(setting_.plan, setting_.place, pipeline_rank),
                                     .tag = tag,
                                     .channel = tag / micro_batches_,
                                     .at = q(f.what),
                                     .n = f.what.count()});
  sent_.push_back(std::move(f));
}

Tensor Executor::receive(int from, std::uint32_t tag) {
  if (const auto it = handed_over_.find(tag); it != handed_over_.end()) {
    Tensor t = std::move(it->second);
    handed_over_.erase(it);
    return t;
  }
  Queue& q = device_.compute();
  Tensor t(meter_, ops_.split_rows() * setting_.model.hidden,
           {.element = ops_.element(), .queue = q.index()});
  communicator_.receive(
      q, {.peer = from, .tag = tag, .channel = tag / micro_batches_, .at = q(t), .n = t.count()});
  return t;
}

void Executor::receive_forward(Pass& pass, std::uint16_t chunk, std::uint32_t mb) {
  const auto from = static_cast<std::uint16_t>(chunk - 1);
  pass.input =
      receive(rank_at(setting_.plan, setting_.place, rank_of(from, mb)), tag(false, from, mb));
}

void Executor::receive_backward(Pass& pass, std::uint16_t chunk, std::uint32_t mb) {
  const auto from = static_cast<std::uint16_t>(chunk + 1);
  pass.d_hidden =
      receive(rank_at(setting_.plan, setting_.place, rank_of(from, mb)), tag(true, from, mb));
  Ops::end_of_hidden(pass, setting_.plan.layout[chunk]);
}

// ---- slots

Pass& Executor::begin_pass(std::uint16_t chunk, std::uint32_t mb, const Ids& ids) {
  const plan::ChunkLayout& layout = setting_.plan.layout[chunk];
  Pass& pass = passes_[{chunk, mb}];
  pass.parts.resize(static_cast<std::size_t>(layout.layers + layout.mtp));
  pass.heads.resize(static_cast<std::size_t>(layout.mtp) + 1);
  if (layout.embedding || layout.head || layout.mtp > 0) {
    Queue& q = device_.compute();
    const std::int64_t n = setting_.plan.micro_batch * ops_.token_stride();
    pass.tokens =
        Tensor(meter_, n, {.element = Element::Int32, .what = Holds::Buffers, .queue = q.index()});
    if (device_.remote()) {
      std::vector<std::int32_t> tokens(static_cast<std::size_t>(n));
      ids(mb, tokens.data());
      q.upload(tokens.data(), q(pass.tokens), n);
    } else {
      ids(mb, pass.tokens.ints());
    }
  }
  if (chunk > 0) receive_forward(pass, chunk, mb);
  return pass;
}

void Executor::finish_forward(std::uint16_t chunk, std::uint32_t mb) {
  if (chunk + 1 == chunks_) return;
  const plan::ChunkLayout& layout = setting_.plan.layout[chunk];
  Pass& pass = passes_.at({chunk, mb});
  Tensor& out =
      layout.layers > 0 ? pass.parts[static_cast<std::size_t>(layout.layers - 1)].out : pass.input;
  send(std::move(out), rank_of(chunk + 1, mb), tag(false, chunk, mb));
  out = Tensor();
}

void Executor::finish_backward(std::uint16_t chunk, std::uint32_t mb, bool weights) {
  Pass& pass = passes_.at({chunk, mb});
  if (chunk > 0 && pass.d_input) {
    send(std::move(pass.d_input), rank_of(chunk - 1, mb), tag(true, chunk, mb));
    pass.d_input = Tensor();
  }
  if (weights) passes_.erase({chunk, mb});
}

void Executor::run_slot(std::uint32_t index, const Ids& ids, bool record) {
  release_sent();
  const sim::Slot& slot = role_->slots[index];
  const auto needed = static_cast<std::uint32_t>(gathers_before_[index]);
  for (std::uint32_t done = gathers_done_.load(); done < needed; done = gathers_done_.load()) {
    data_.rethrow();
    gathers_done_.wait(done);
  }
  data_.rethrow();
  if (needed > 0) device_.compute().wait(gather_marks_[needed - 1]);

  const bool forward = slot.phase == Phase::F || slot.phase == Phase::FB;
  const bool pair = slot.phase == Phase::FB;
  const std::uint32_t mb = actual(slot.micro_batch);
  const std::uint16_t back_chunk = pair ? slot.chunk2 : slot.chunk;
  const std::uint32_t back_mb = pair ? actual(slot.micro_batch2) : mb;
  const bool input_grads = slot.phase == Phase::B || slot.phase == Phase::BW || pair;

  Run run{.bound = &bound_[slot.block]};
  if (forward) {
    run.forward = &begin_pass(slot.chunk, mb, ids);
    run.forward_layout = &setting_.plan.layout[slot.chunk];
    run.forward_weights = &weights_.chunk(slot.chunk);
  }
  if (slot.phase != Phase::F) {
    run.backward = &passes_.at({back_chunk, back_mb});
    run.backward_layout = &setting_.plan.layout[back_chunk];
    run.backward_weights = &weights_.chunk(back_chunk);
    if (input_grads && back_chunk + 1 < chunks_)
      receive_backward(*run.backward, back_chunk, back_mb);
  }
  const sim::Block& block = *program_.blocks[slot.block];
  std::vector<sim::Event> events;
  std::vector<Stamps> stamps;
  if (record) {
    if (device_.remote()) {
      stamps.resize(block.ops.size());
      run.stamps = &stamps;
    }
    for (std::uint32_t i = 0; i < block.ops.size(); ++i) {
      const sim::Op& op = block.ops[i];
      const bool second = op.phase != Phase::F || op.recompute;
      events.push_back({.role = role_index_,
                        .slot = index,
                        .op = i,
                        .label = run.bound->label[i],
                        .stream = op.stream,
                        .phase = op.phase,
                        .recompute = op.recompute,
                        .chunk = second && pair ? slot.chunk2 : slot.chunk,
                        .micro_batch = second ? back_mb : mb});
    }
    run.events = &events;
  }
  run_block(run);
  if (forward) finish_forward(slot.chunk, mb);
  if (slot.phase != Phase::F) finish_backward(back_chunk, back_mb, run.bound->weights);
  if (record) {
    const std::lock_guard lock(events_mutex_);
    events_.insert(events_.end(), events.begin(), events.end());
    stamps_.insert(stamps_.end(), stamps.begin(), stamps.end());
  }
}

void Executor::record_sync(const sim::Sync& sync, std::uint32_t index, sim::SimTime start,
                           Stamps stamps) {
  // Behind the ops and messages of the slot, see sim::Event.
  const sim::Slot& slot = role_->slots[sync.slot];
  const auto behind = static_cast<std::uint32_t>(program_.blocks[slot.block]->ops.size());
  const sim::SimTime end = now();
  const std::lock_guard lock(events_mutex_);
  const auto it = std::find(labels_.begin(), labels_.end(), sync.label);
  const auto label = static_cast<std::uint32_t>(it - labels_.begin());
  if (it == labels_.end()) labels_.push_back(sync.label);
  events_.push_back({.role = role_index_,
                     .slot = sync.slot,
                     .op = behind + slot.messages + index,
                     .label = label,
                     .stream = Stream::Data,
                     .phase = sync.before ? Phase::F : Phase::W,
                     .chunk = sync.chunk,
                     .start = start,
                     .end = end});
  if (device_.remote()) stamps_.push_back(std::move(stamps));
}

// Events by the queues' clocks instead of the host's.
void Executor::read_stamps() {
  if (stamps_.empty()) return;
  device_.compute().finish();
  const auto at = [&](const Mark& m) { return sim::SimTime{} + device_.between(start_stamp_, m); };
  for (std::size_t i = 0; i < events_.size(); ++i)
    events_[i].start = at(stamps_[i].from), events_[i].end = at(stamps_[i].to);
  stamps_.clear();
}

void Executor::run_step(std::int64_t step, const Ids& ids, bool record) {
  try {
    walk(step, ids, record);
  } catch (const std::exception& e) {
    transport_.abort(e.what());  // before the threads are joined: they may wait for other ranks
    throw;
  }
}

void Executor::walk(std::int64_t step, const Ids& ids, bool record) {
  start_ = std::chrono::steady_clock::now();
  events_.clear();
  stamps_.clear();
  gathers_done_.store(0);
  Queue& compute = device_.compute();
  Queue& data = device_.queue(Stream::Data);
  stamping_ = record && device_.remote();
  start_stamp_ = stamp(compute);
  const auto post = [&](std::uint32_t index) {
    const sim::Sync& sync = role_->syncs[index];
    data_.post([this, &sync, &data, index, record, behind = compute.mark()] {
      data.wait(behind);
      const sim::SimTime start = now();
      const Mark from = stamp(data);
      try {
        optimizer_.sync(sync);
      } catch (...) {
        transport_.abort("a data-parallel collective failed");
        gathers_done_.fetch_add(1u << 30);  // whoever waits looks for the failure
        gathers_done_.notify_all();
        throw;
      }
      if (record) record_sync(sync, index, start, {from, stamp(data)});
      if (sync.before) {
        gather_marks_[gathers_done_.load()] = data.mark();
        gathers_done_.fetch_add(1);
        gathers_done_.notify_all();
      }
    });
  };
  const auto syncs = static_cast<std::uint32_t>(role_->syncs.size());
  for (std::uint32_t i = 0; i < syncs; ++i)
    if (role_->syncs[i].before) post(i);
  for (std::uint32_t slot = 0; slot < role_->slots.size(); ++slot) {
    run_slot(slot, ids, record);
    for (std::uint32_t i = 0; i < syncs; ++i)
      if (!role_->syncs[i].before && role_->syncs[i].slot == slot) post(i);
  }
  data_.drain();
  compute.wait(data.mark());

  const Bound& tail = bound_[role_->tail];
  for (std::uint32_t i = 0; i < tail.block->ops.size(); ++i) {
    const sim::Op& op = tail.block->ops[i];
    const sim::SimTime start = now();
    const Mark from = stamp(compute);
    optimizer_.run(op.label, step);
    if (record && device_.remote()) stamps_.push_back({from, stamp(compute)});
    if (record)
      events_.push_back({.role = role_index_,
                         .slot = static_cast<std::uint32_t>(role_->slots.size()),
                         .op = i,
                         .label = tail.label[i],
                         .stream = op.stream,
                         .phase = Phase::Optimizer,
                         .start = start,
                         .end = now()});
  }
  for (InFlight& f : sent_) f.pending->wait();
  sent_.clear();
  read_stamps();
  check(passes_.empty() && handed_over_.empty(), "every pass of a step ends in it");
}

}  // namespace reckon::real
