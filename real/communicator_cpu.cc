// Tensors of CPU ranks are memory of the host: collectives and messages are the Transport's.
#include "real/communicator.h"
#include "real/devices.h"

namespace reckon::real {

namespace {

class CpuGroup final : public TensorGroup {
 public:
  explicit CpuGroup(std::unique_ptr<Group> group) : group_(std::move(group)) {}
  Group& host() override { return *group_; }
  void all_reduce(Queue&, View values, std::size_t n) override {
    group_->all_reduce(floats(values), n);
  }
  void reduce_scatter(Queue&, ConstView in, View out, std::size_t n) override {
    group_->reduce_scatter(floats(in), floats(out), n);
  }
  void all_gather(Queue&, ConstView in, View out, std::size_t n) override {
    group_->all_gather(floats(in), floats(out), n);
  }
  void reduce_scatter_parts(Queue&, ConstView in, View out,
                            const std::vector<std::size_t>& counts) override {
    group_->reduce_scatter_parts(floats(in), floats(out), counts);
  }
  void all_gather_parts(Queue&, ConstView in, View out,
                        const std::vector<std::size_t>& counts) override {
    group_->all_gather_parts(floats(in), floats(out), counts);
  }
  void all_to_all(Queue&, const Exchange& e) override {
    group_->all_to_all(floats(e.in), e.send_counts, floats(e.out), e.receive_counts);
  }

 private:
  std::unique_ptr<Group> group_;
};

class CpuCommunicator final : public Communicator {
 public:
  explicit CpuCommunicator(Transport& transport) : transport_(transport) {}
  Transport& transport() override { return transport_; }
  std::unique_ptr<TensorGroup> group(std::vector<int> members, std::uint32_t id) override {
    return std::make_unique<CpuGroup>(make_group(transport_, std::move(members), id));
  }
  std::unique_ptr<Pending> send(Queue&, const Letter& l) override {
    return transport_.send(l.peer, l.tag, l.at.at, bytes(l));
  }
  void receive(Queue&, const Letter& l) override {
    transport_.receive(l.peer, l.tag, l.at.at, bytes(l))->wait();
  }

 private:
  static std::size_t bytes(const Letter& l) {
    return static_cast<std::size_t>(l.n * bytes_of(l.at.element));
  }
  Transport& transport_;
};

}  // namespace

std::unique_ptr<Communicator> make_cpu_communicator(Transport& transport) {
  return std::make_unique<CpuCommunicator>(transport);
}

std::unique_ptr<Equipment> cpu_equipment(Transport& transport) {
  return std::make_unique<Equipment>(
      Equipment{.device = make_cpu_device(), .communicator = make_cpu_communicator(transport)});
}

}  // namespace reckon::real
