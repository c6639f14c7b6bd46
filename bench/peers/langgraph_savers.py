"""LangGraph: a compiled graph of one node whose checkpointer is the saver; the graph itself reads the state."""

from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph

from bench.peers.store import PeerStore, texts


class SqliteSaver(PeerStore):
    def _saver(self) -> Any:
        return AsyncSqliteSaver.from_conn_string(self.target)

    async def open(self) -> None:
        self._entered = self._saver()
        saver = await self._entered.__aenter__()
        await saver.setup()
        graph = StateGraph(MessagesState)
        graph.add_node("agent", self._answer)
        graph.add_edge(START, "agent")
        graph.add_edge("agent", END)
        self._graph = graph.compile(checkpointer=saver)

    async def _answer(self, state: MessagesState) -> dict[str, Any]:
        """The agent: it is given the whole history and the new message, and answers what it was told to."""
        self._seen = state["messages"]
        return {"messages": [AIMessage(self._reply)]}

    def _config(self, conversation: str) -> Any:
        return {"configurable": {"thread_id": conversation}}

    async def start(self, conversation: str) -> None:
        """Nothing: a conversation begins with its first message."""

    async def seed(self, conversation: str, first: int, last: int) -> None:
        messages: list[Any] = []
        for user, agent in texts(conversation, first, last):
            messages += [HumanMessage(user), AIMessage(agent)]
        await self._graph.aupdate_state(self._config(conversation), {"messages": messages}, as_node="agent")

    async def read_last(self, conversation: str, limit: int) -> list[str]:
        state = await self._graph.aget_state(self._config(conversation))
        return [str(message.content) for message in state.values["messages"][-limit:]]

    async def append_turn(self, conversation: str, number: int) -> None:
        ((user, self._reply),) = texts(conversation, number, number)
        await self._graph.ainvoke({"messages": [HumanMessage(user)]}, self._config(conversation))

    async def turn(self, conversation: str, number: int) -> list[str]:
        """ainvoke alone: it loads the history, so reading it apart would charge LangGraph twice."""
        await self.append_turn(conversation, number)
        return [str(message.content) for message in self._seen[-51:-1]]

    async def close(self) -> None:
        await self._entered.__aexit__(None, None, None)


class PostgresSaver(SqliteSaver):
    def _saver(self) -> Any:
        return AsyncPostgresSaver.from_conn_string(self.target)
